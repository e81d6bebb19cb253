"""Feature tables: the use case's build functions over the raw tables, kept up to date in the lake.

A build is incremental: it finds the raw rows that are new to a table (by lake version, so late ones count, and by
`known_at`, so those that were ingested ahead of time count once their time has come), widens their range by the table's
`lookback`, computes that range again and puts it in place of the old rows in one commit. The result equals a full
recompute (tested). One thing is kept that a recompute would lose: when a correction yields a row of the same entity and
event time with a later `known_at`, the earlier row stays beside it, because until then it was the truth. This module
knows nothing of Feast.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from inspect import getsourcefile
from pathlib import Path

import polars as pl

from millrace.errors import FeatureError, LakeError, NoDataError
from millrace.lake import Lake
from millrace.usecase import EVENT_TIME, KNOWN_AT, FeatureTable, Source, UseCase

_AS_OF = "build.as_of"
_CODE = "build.code"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TableBuild:
    """What one build did: the feature table's name, the rows it wrote (0: nothing was new) and its version."""

    table: str
    rows: int
    version: int


@dataclass(frozen=True, slots=True)
class _Range:
    """The event times to compute again, both ends inclusive."""

    first: datetime
    last: datetime


def table_name(table: FeatureTable) -> str:
    """The name of a feature table in the lake."""
    return f"features/{table.name}"


def build_tables(use_case: UseCase, lake: Lake, *, as_of: datetime) -> list[TableBuild]:
    """Bring every feature table up to what is known at `as_of`.

    A table that was built for a later moment keeps what it knows; joins see only what was known at their own instant.
    Raises `NoDataError` when a source it reads has no rows yet, `FeatureError` when a build function fails or returns a
    frame without the entity's columns and the two times.
    """
    return [_build(table, lake, as_of) for table in use_case.feature_tables]


def _build(table: FeatureTable, lake: Lake, as_of: datetime) -> TableBuild:
    name = table_name(table)
    missing = [source.name for source in table.reads if not lake.exists(f"raw/{source.name}")]
    if missing:
        raise NoDataError(
            f"The feature table {table.name!r} reads {', '.join(missing)}, of which nothing has been ingested.",
            looked=f"The lake {lake.root} holds {', '.join(lake.tables()) or 'no table'}.",
            todo="Ingest first: millrace ingest NAME --as-of …",
        )
    before = lake.mark(name, _AS_OF)
    if before is not None:
        as_of = max(as_of, _EPOCH + timedelta(microseconds=before))
    marks = _marks(table, lake, as_of)
    fresh = before is None or lake.mark(name, _CODE) != marks[_CODE]
    touched = None if fresh else _touched(table, lake, as_of)
    if not fresh and touched is None:
        return TableBuild(table.name, 0, lake.version(name))
    return _write(table, lake, as_of, None if fresh or table.lookback is None else touched, marks, fresh=fresh)


def _write(
    table: FeatureTable, lake: Lake, as_of: datetime, touched: _Range | None, marks: dict[str, int], *, fresh: bool
) -> TableBuild:
    """Compute the range (everything if None) and put it in place."""
    name = table_name(table)
    frame = _compute(table, lake, as_of, touched)
    if not fresh:
        frame = _with_superseded(table, frame, _within(lake.scan(name), touched).collect())
    commit = lake.replace(name, frame, where=_predicate(touched), marks=marks)
    return TableBuild(table.name, commit.rows, commit.version)


def _marks(table: FeatureTable, lake: Lake, as_of: datetime) -> dict[str, int]:
    """What a build leaves in its commit: the moment, the code's digest and the version of each source it read."""
    versions = {f"build.read/{source.name}": lake.version(f"raw/{source.name}") for source in table.reads}
    return versions | {_AS_OF: (as_of - _EPOCH) // timedelta(microseconds=1), _CODE: _code(table)}


def _code(table: FeatureTable) -> int:
    """A digest of the file that defines the build function: a changed file is a changed feature."""
    file = getsourcefile(table.build)
    text = Path(file).read_bytes() if file and Path(file).is_file() else table.build.__code__.co_code
    return int.from_bytes(sha256(text).digest()[:7], "big")


def _touched(table: FeatureTable, lake: Lake, as_of: datetime) -> _Range | None:
    """The event times of feature rows that the raw rows new to this table can change; None if there are none."""
    name = table_name(table)
    before = _EPOCH + timedelta(microseconds=lake.mark(name, _AS_OF) or 0)
    spans = [_new_rows(lake, name, source, before, as_of) for source in table.reads]
    found = pl.concat(spans).drop_nulls()
    if found.is_empty():
        return None
    lookback = table.lookback or timedelta(0)
    return _Range(found["first"].min(), found["last"].max() + lookback)  # type: ignore[arg-type,operator]  # datetimes


def _new_rows(lake: Lake, name: str, source: Source, before: datetime, as_of: datetime) -> pl.DataFrame:
    """First event time and last event or known time of a source's rows that the table has not seen; nulls if none."""
    raw = f"raw/{source.name}"
    read = lake.mark(name, f"build.read/{source.name}")
    span = (
        pl.col(EVENT_TIME).min().alias("first"),
        pl.max_horizontal(pl.col(EVENT_TIME).max(), pl.col(KNOWN_AT).max()).alias("last"),
    )
    due = lake.scan(raw).filter((pl.col(KNOWN_AT) > before) & (pl.col(KNOWN_AT) <= as_of)).select(span)
    if read == lake.version(raw):
        return due.collect()
    try:
        changed = lake.scan(raw) if read is None else lake.changes(raw, since=read)
    except LakeError:  # that version was vacuumed: every row may be new
        changed = lake.scan(raw)
    return pl.concat([due, changed.filter(pl.col(KNOWN_AT) <= as_of).select(span)]).collect()


def _compute(table: FeatureTable, lake: Lake, as_of: datetime, touched: _Range | None) -> pl.DataFrame:
    """The feature rows of a range, from the raw rows known at `as_of` that matter to it."""
    inputs = {}
    for source in table.reads:
        rows = lake.scan(f"raw/{source.name}").filter(pl.col(KNOWN_AT) <= as_of)
        if touched is not None and table.lookback is not None:
            rows = rows.filter(pl.col(EVENT_TIME) >= touched.first - table.lookback)
        inputs[source.name] = rows
    try:
        frame = _within(table.build(inputs), touched).collect()
    except Exception as error:
        raise FeatureError(
            f"The feature table {table.name!r} cannot be built: {type(error).__name__}: {error}.",
            looked=f"Its build function read {', '.join(inputs)} as of {as_of:%Y-%m-%d %H:%M} UTC.",
            todo="Run the build function alone on small frames to see the whole error; the table is unchanged.",
        ) from error
    needed = [*table.entity, EVENT_TIME, KNOWN_AT]
    wrong = [name for name in needed if name not in frame.columns or frame[name].null_count()]
    if wrong:
        raise FeatureError(
            f"The feature table {table.name!r} lacks values in {', '.join(wrong)}.",
            looked=f"Its build function returned the columns {', '.join(frame.columns)}.",
            todo=f"Return a row's {', '.join(needed)}, none of them null, beside its features.",
        )
    return frame


def _within(rows: pl.LazyFrame, touched: _Range | None) -> pl.LazyFrame:
    return rows if touched is None else rows.filter(pl.col(EVENT_TIME).is_between(touched.first, touched.last))


def _predicate(touched: _Range | None) -> str | None:
    if touched is None:
        return None
    first, last = (f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" for at in (touched.first, touched.last))
    return f"{EVENT_TIME} >= '{first}' AND {EVENT_TIME} <= '{last}'"


def _with_superseded(table: FeatureTable, new: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """`new`, and of `old` the rows whose entity and event time `new` has with a later `known_at` only."""
    key = [*table.entity, EVENT_TIME]
    if set(old.columns) != set(new.columns):
        return new
    first = new.group_by(key).agg(pl.col(KNOWN_AT).min().alias("_replaced_at"))
    kept = old.join(first, on=key).filter(pl.col(KNOWN_AT) < pl.col("_replaced_at")).drop("_replaced_at")
    if kept.is_empty():
        return new
    return pl.concat([new, kept.select(new.columns).cast(dict(new.schema))])  # type: ignore[arg-type]  # a schema is a mapping
