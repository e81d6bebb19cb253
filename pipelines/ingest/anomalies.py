"""Whether a batch is like the batches before it: what a schema cannot see, and what would poison a table.

Compared are, with the stretches of the lake just before the batch: numbers' magnitudes (a changed unit), shares of
missing values and of zeros (a flood of nulls), rows and the silence at both ends (an empty or truncated file), and how
far events lie after they were known (a clock in the future). Nothing is compared while that past is short. How it was
calibrated, with the rates seen, stands in docs/decisions/0007-anomalies.md. This module writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from math import sqrt

import polars as pl

from millrace.errors import SourceError
from millrace.lake import Lake
from millrace.source import EVENT_TIME, KNOWN_AT, Source
from pipelines.ingest.magnitudes import Jump, find_jump, magnitudes
from pipelines.ingest.past import STRETCH, Past, read_past

JUDGED = 20
"""Rows that a batch, and a stretch, must have for the shares of its columns to be compared."""
SILENT = 0.1
"""Share of the range that must be silent at one end for the batch to be truncated: weekly, 17 hours. The longest storm
of 2013 kept every flight of New York on the ground for 15."""
SLACK = timedelta(hours=1)
"""How far beyond the longest lead so far, and half of it again, an event may lie after it was known."""


def check_plausible(source: Source, frame: pl.DataFrame, lake: Lake, *, since: datetime, until: datetime) -> None:
    """Raise `SourceError` when the batch of the rows known in (since, until] is not like the source's rows so far.

    `frame` are the rows that satisfy the schema, or none. The error names each column, what was expected from which
    rows, and what to type when the change is meant.
    """
    past = read_past(lake, f"raw/{source.name}", since, until)
    found = [*_future(source, frame, past)]
    if past is not None and "*" not in source.plausible.ignore:
        if KNOWN_AT not in source.plausible.ignore:
            found += _truncated(source, frame, past, since, until)
        if frame.height:
            columns = frame.select(_compared(source, frame, past))
            found += [*_floods(source, columns, past), *_jumps(source, columns, past)]
    if found:
        raise _implausible(source, frame, past, found, since, until)


def _compared(source: Source, frame: pl.DataFrame, past: Past) -> list[str]:
    """The columns that batch and past both have, with values of one kind; but not a key, nor what shall be ignored."""
    left_out = {EVENT_TIME, KNOWN_AT, *source.key, *source.plausible.ignore}
    stored = past.rows.collect_schema()
    return [
        name
        for name, dtype in frame.schema.items()
        if name in stored and name not in left_out and dtype.is_numeric() == stored[name].is_numeric()
    ]


def _future(source: Source, frame: pl.DataFrame, past: Past | None) -> Iterator[str]:
    """Events that lie further after they were known than declared, or than ever so far."""
    if source.ahead is not None:
        ahead, why = source.ahead, "the source declares"
    elif past is not None and not {"*", EVENT_TIME} & {*source.plausible.ignore}:
        ahead, why = 1.5 * max(past.lead, timedelta(0)) + SLACK, "the rows so far allow"
    else:
        return
    if frame.is_empty():
        return
    late = frame.filter(pl.col(EVENT_TIME) - pl.col(KNOWN_AT) > ahead)[EVENT_TIME].sort()
    if len(late):
        yield (
            f"the column {EVENT_TIME} lies in the future in {len(late):,} rows, up to "
            f"{late.item(len(late) - 1):%Y-%m-%d %H:%M} UTC, where {why} at most {ahead} after {KNOWN_AT}"
        )


def _truncated(source: Source, frame: pl.DataFrame, past: Past, since: datetime, until: datetime) -> Iterator[str]:
    """Too few rows, or none at an end of the range for longer than ever."""
    limits = source.plausible
    if frame.height < limits.fewest_rows * past.fewest:
        yield f"it has {frame.height:,} rows, where no stretch as long had fewer than {past.fewest:,}"
    if frame.is_empty():
        silences = {"all of it": until - past.last}
    else:
        first, last = frame.select(first=pl.col(KNOWN_AT).min(), last=pl.col(KNOWN_AT).max()).row(0)
        silences = {"its beginning": first - since, "its end": until - last}
    allowed = max(limits.longest_silence * past.silence, SILENT * (until - since))
    for where, silence in silences.items():
        if silence > allowed:
            longest = f"where the longest silence so far was {_span(past.silence)}"
            yield f"no row became known for {_span(silence)} at {where} ({KNOWN_AT}), {longest}"


def _floods(source: Source, frame: pl.DataFrame, past: Past) -> Iterator[str]:
    """Columns with many more missing values, or zeros, than any stretch had."""
    if frame.height < JUDGED or frame.width == 0:
        return
    kinds = {"missing": _missing, "zero": _zero}
    shares = [
        share(name, dtype).mean().alias(f"{kind} {name}")
        for name, dtype in frame.schema.items()
        for kind, share in kinds.items()
        if kind == "missing" or dtype.is_numeric()
    ]
    then = past.rows.group_by(STRETCH).agg(pl.len().alias("__rows"), *shares).filter(pl.col("__rows") >= JUDGED)
    before, now = then.drop(STRETCH, "__rows").max().collect(), frame.select(shares)
    allowed = source.plausible.null_rise + 2 / sqrt(frame.height)
    for column in now.columns:
        share, most = now[column].item(), before[column].item()
        if most is not None and share - most > allowed:
            kind, name = column.split(" ", 1)
            yield f"the column {name} is {kind} in {share:.0%} of its rows, where at most {most:.0%} were so far"


def _missing(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_float():
        return column.is_null() | column.is_nan().fill_null(False)
    return column.is_null() | (column == "").fill_null(False) if dtype == pl.String else column.is_null()


def _zero(name: str, _: pl.DataType) -> pl.Expr:
    return (pl.col(name) == 0).fill_null(False)


def _jumps(source: Source, frame: pl.DataFrame, past: Past) -> Iterator[str]:
    """Columns of numbers whose unit changed, in all of the rows or in a part."""
    limits = source.plausible
    numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
    now = [magnitudes(frame.lazy(), name, limits.unit_jump) for name in numbers]
    then = [magnitudes(past.rows, name, limits.unit_jump, by=(STRETCH,)) for name in numbers]
    counts = pl.collect_all([*now, *then])
    for name, batch, before in zip(numbers, counts[: len(now)], counts[len(now) :], strict=True):
        jump = find_jump(batch, before, STRETCH, limits.unit_jump, limits.jumped)
        if jump is not None:
            yield _told(name, jump)


def _told(name: str, jump: Jump) -> str:
    side = "above" if jump.larger else "below"
    return (
        f"the column {name} changed its unit: {jump.share:.0%} of its values are {side} {jump.threshold:.3g} in size, "
        f"where at most {jump.before:.0%} were {side} {jump.bound:.3g} so far"
    )


def _implausible(
    source: Source, frame: pl.DataFrame, past: Past | None, found: list[str], since: datetime, until: datetime
) -> SourceError:
    compared = ""
    if past is not None:
        compared = f" It was compared with the {past.height:,} rows known from {past.since:%Y-%m-%d %H:%M} on."
    return SourceError(
        f"The batch of source {source.name!r} is not like the ones before it: {'; '.join(found)}.",
        looked=f"It has {frame.height:,} good rows known after {since:%Y-%m-%d %H:%M} up to {until:%Y-%m-%d %H:%M} "
        f"(UTC).{compared} Nothing of it was written.",
        todo=f"Correct the source and ingest again; if the change is meant, type: millrace ingest USE_CASE --accept "
        f"{source.name}; to allow it always, set plausible=Plausible(…) or ahead=… of the Source.",
    )


def _span(span: timedelta) -> str:
    """A length of time to the minute: `2 days, 3:04`."""
    return str(span - span % timedelta(minutes=1)).removesuffix(":00")
