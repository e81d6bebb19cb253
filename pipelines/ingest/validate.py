"""Which rows of a batch may enter the lake: the source's own pandera schema, and the two times and key every row needs.

A fault of one row sends that row to quarantine with the reason for each column. A fault of the whole batch (a column
that is missing, renamed or of another type than the schema or the table has, or too many bad rows) stops the batch.
This module writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import polars as pl

from millrace.errors import SourceError
from millrace.lake.types import misfits
from millrace.source import EVENT_TIME, KNOWN_AT, Source

MIN_BAD_ROWS = 20
"""Bad rows that a batch may always have, so that one bad row does not stop a batch of five."""
REASONS = "reasons"
"""Column of a quarantined row: `column: check`, one entry for each thing that is wrong with it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A batch split in two: `good` rows as they came, `bad` rows with the list `reasons` beside their columns."""

    good: pl.DataFrame
    bad: pl.DataFrame


def check_batch(source: Source, frame: pl.DataFrame, stored: pl.Schema, *, accept: bool = False) -> Checked:
    """Split a batch into rows that satisfy the schema and rows that do not.

    `stored` are the columns that the source's table has (none before its first row). Raises `SourceError`, naming the
    column, when the batch as a whole is not what schema and table describe, or when more than the source's
    `max_bad_share` of its rows are bad. With `accept`, a batch may lack a column that the table has and the schema not.
    """
    if not accept:
        _check_kept(source, frame, stored)
    faults = row_faults(source, frame, stored)
    if faults.is_empty():
        return Checked(frame, frame.clear().with_columns(pl.lit(None, pl.List(pl.String)).alias(REASONS)))
    numbered = frame.with_row_index("row")
    bad = numbered.join(faults, on="row", how="inner", maintain_order="left").drop("row")
    _check_share(source, frame, bad)
    return Checked(numbered.join(faults, on="row", how="anti", maintain_order="left").drop("row"), bad)


def row_faults(source: Source, frame: pl.DataFrame, stored: pl.Schema) -> pl.DataFrame:
    """What is wrong with single rows: `row` (its number) and the list `reasons`; a row that satisfies all is not there.

    Raises `SourceError`, naming the column, when the frame as a whole is not what schema and table describe.
    """
    _check_times(source, frame)
    faults = _own_faults(source, frame) + _schema_faults(source, frame, stored)
    wrong = misfits(frame.schema, stored)
    if wrong:
        raise _batch_error(source, frame, f"the column {'; the column '.join(wrong)} as in the table")
    return (
        pl.DataFrame(faults, schema={"row": pl.UInt32, REASONS: pl.String}, orient="row")
        .unique()
        .sort("row", REASONS)
        .group_by("row", maintain_order=True)
        .agg(REASONS)
    )


def _check_kept(source: Source, frame: pl.DataFrame, stored: pl.Schema) -> None:
    """Every column of the table is still there."""
    gone = [name for name in stored if name not in frame.columns]
    if gone:
        told = "; ".join(_missing(name, frame, stored, stored[name]) for name in gone)
        todo = (
            f"Correct the source; if it was dropped on purpose, type: millrace ingest USE_CASE --accept {source.name}"
        )
        raise _batch_error(source, frame, f"{told} (the table has it)", todo)


def _missing(name: str, frame: pl.DataFrame, known: Collection[str], dtype: pl.DataType | None) -> str:
    """That a column is missing, and which new one of its kind it may have been renamed to: the one most alike."""
    new = [
        other
        for other in frame.columns
        if other not in known and (dtype is None or frame.schema[other].is_numeric() == dtype.is_numeric())
    ]
    alike = max(new, key=lambda other: SequenceMatcher(None, name, other).ratio(), default=None)
    return f"the column {name} is missing" + (f" (was it renamed to {alike}?)" if alike else "")


def _check_times(source: Source, frame: pl.DataFrame) -> None:
    """Every batch has its key columns and two UTC times, whatever the schema says."""
    missing = [name for name in dict.fromkeys((EVENT_TIME, KNOWN_AT, *source.key)) if name not in frame.columns]
    if missing:
        raise _batch_error(source, frame, f"the column {', '.join(missing)} is missing")
    for name in (EVENT_TIME, KNOWN_AT):
        dtype = frame.schema[name]
        if not isinstance(dtype, pl.Datetime) or dtype.time_zone != "UTC":
            raise _batch_error(source, frame, f"the column {name} is {dtype}, not a datetime in UTC")


def _own_faults(source: Source, frame: pl.DataFrame) -> list[tuple[int, str]]:
    """Rows without a value in a column that every row of the lake must have."""
    return [
        (row, f"{name}: missing")
        for name in dict.fromkeys((EVENT_TIME, KNOWN_AT, *source.key))
        if frame[name].null_count()
        for row in frame[name].is_null().arg_true().to_list()
    ]


def _schema_faults(source: Source, frame: pl.DataFrame, stored: pl.Schema) -> list[tuple[int, str]]:
    """What pandera finds row by row; `SourceError` for what it finds about the batch."""
    from pandera.errors import SchemaErrors

    schema = source.schema()
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.select("index", "column", "check", "failure_case").rows()
        columns = getattr(schema, "columns", ())  # a pandera model class has no such list
        known = {*stored, *columns, EVENT_TIME, KNOWN_AT, *source.key}
        whole = [
            _missing(str(case), frame, known, stored.get(str(case)))
            if check == "column_in_dataframe"
            else _about_batch(column, check, case)
            for index, column, check, case in cases
            if index is None
        ]
        if whole:
            raise _batch_error(source, frame, "; ".join(dict.fromkeys(whole))) from error
        return [(int(index), f"{column or 'row'}: {check}") for index, column, check, _ in cases]
    return []


def _about_batch(column: Any, check: str, case: Any) -> str:
    if check == "column_in_schema":
        return f"the column {case} is not in its schema"
    if check.startswith("dtype("):
        return f"the column {column} is {case}, not {check.removeprefix('dtype(').strip(chr(39) + ')')}"
    return f"{column or 'the batch'} fails {check}" + (f" ({case})" if case is not None else "")


def _check_share(source: Source, frame: pl.DataFrame, bad: pl.DataFrame) -> None:
    if bad.height <= max(MIN_BAD_ROWS, source.max_bad_share * frame.height) and bad.height < frame.height:
        return
    counts = bad[REASONS].explode().value_counts(sort=True).head(3).rows()
    most = ", ".join(f"{reason} ({count:,} rows)" for reason, count in counts)
    raise _batch_error(source, frame, f"{bad.height:,} of {frame.height:,} rows break it: {most}")


_TODO = "Correct the source's data, or its schema in the use case if the change is meant."


def _batch_error(source: Source, frame: pl.DataFrame, what: str, todo: str = _TODO) -> SourceError:
    return SourceError(
        f"The batch of source {source.name!r} breaks its schema: {what}.",
        looked=f"It has {frame.height:,} rows with the columns {', '.join(frame.columns)}. Nothing of it was written.",
        todo=todo,
    )
