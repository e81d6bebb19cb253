"""Feature tables: the use case's build functions over the raw tables, kept up to date in the lake.

A build is incremental: `features.touched` says which stretch of a table the new raw rows can change; that stretch is
computed again and put in place of the old rows in one commit. The result equals a full recompute (tested). One thing is
kept that a recompute would lose: when a correction yields a row of the same entity and event time with a later
`known_at`, the earlier row stays beside it, because until then it was the truth. This module knows nothing of Feast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from inspect import getsourcefile
from pathlib import Path

import polars as pl

from features.online_store import instant, micros
from features.touched import NewRows, Range
from millrace.errors import FeatureError, NoDataError, first_line
from millrace.lake import Lake
from millrace.source import EVENT_TIME, KNOWN_AT
from millrace.usecase import FeatureTable, UseCase

_AS_OF, _CODE, _READ = "build.as_of", "build.code", "build.read/"
"""Marks that a build leaves: the moment, a digest of the code, and the version that it read of each source."""


@dataclass(frozen=True, slots=True)
class TableBuild:
    """What one build did: the feature table's name, the rows it wrote (0: nothing was new) and its version."""

    table: str
    rows: int
    version: int


@dataclass(frozen=True, slots=True)
class BuildMarks:
    """What a build left with its rows: the moment it was for, and the version that it read of each source's table."""

    as_of: datetime
    read: dict[str, int]


def build_marks(table: FeatureTable, lake: Lake, *, version: int) -> BuildMarks | None:
    """The marks of the last build up to a version of a feature table; None when no build of ours has written it."""
    reads = [source.name for source in table.reads]
    left = lake.marks(table_name(table), [_AS_OF, *(_READ + name for name in reads)], version=version)
    if _AS_OF not in left:
        return None
    return BuildMarks(instant(left[_AS_OF]), {name: left[_READ + name] for name in reads if _READ + name in left})


def table_name(table: FeatureTable) -> str:
    """The name of a feature table in the lake."""
    return f"features/{table.name}"


def build_tables(use_case: UseCase, lake: Lake, *, as_of: datetime) -> list[TableBuild]:
    """Bring every feature table up to what is known at `as_of`.

    A table that was built for a later moment keeps what it knows; joins see only what was known at their own instant.
    Raises `NoDataError` when a source it reads has no rows yet, `FeatureError` when a build function fails or returns a
    frame without the entity's columns and the two times.
    """
    new = NewRows(lake)
    return [_build(table, lake, new, as_of) for table in use_case.feature_tables]


def _build(table: FeatureTable, lake: Lake, new: NewRows, as_of: datetime) -> TableBuild:
    _check_sources(table, lake)
    name, code = table_name(table), _code(table)
    now = {source.name: new.version(source) for source in table.reads}  # asked first: rows that come later are new
    left = lake.marks(name, [_AS_OF, _CODE, *(_READ + source for source in now)])
    if left.get(_CODE) != code:
        frame, touched = _compute(table, lake, now, as_of, None), None
    else:
        before = instant(left[_AS_OF])
        as_of = max(as_of, before)
        read = {source: left[_READ + source] for source in now if _READ + source in left}
        touched = new.touched(table.reads, table.lookback or timedelta(0), read=read, before=before, as_of=as_of)
        if touched is None:
            return TableBuild(table.name, 0, lake.version(name))
        touched = touched if table.lookback is not None else None
        frame = _with_superseded(table, _compute(table, lake, now, as_of, touched), lake, touched)
    marks = {_READ + source: version for source, version in now.items()}
    marks |= {_AS_OF: micros(as_of), _CODE: code}
    in_time = frame.sort(KNOWN_AT, EVENT_TIME, maintain_order=True)  # files that hold a stretch of time, and fast joins
    commit = lake.replace(name, in_time, where=_predicate(touched), marks=marks)
    return TableBuild(table.name, commit.rows, commit.version)


def _check_sources(table: FeatureTable, lake: Lake) -> None:
    missing = [source.name for source in table.reads if not lake.exists(f"raw/{source.name}")]
    if missing:
        raise NoDataError(
            f"The feature table {table.name!r} reads {', '.join(missing)}, of which nothing has been ingested.",
            looked=f"The lake {lake.root} holds {', '.join(lake.tables()) or 'no table'}.",
            todo="Ingest first: millrace ingest NAME --as-of …",
        )


def _code(table: FeatureTable) -> int:
    """A digest of the file that defines the build function: a changed file is a changed feature."""
    file = getsourcefile(table.build)
    text = Path(file).read_bytes() if file and Path(file).is_file() else table.build.__code__.co_code
    return int.from_bytes(sha256(text).digest()[:7], "big")


def _compute(
    table: FeatureTable, lake: Lake, versions: Mapping[str, int], as_of: datetime, touched: Range | None
) -> pl.DataFrame:
    """The feature rows of a range (all if None), from the raw rows in `versions` known at `as_of` that matter to it."""
    inputs = {}
    for source in table.reads:
        rows = lake.scan(f"raw/{source.name}", version=versions[source.name]).filter(pl.col(KNOWN_AT) <= as_of)
        if touched is not None and table.lookback is not None:
            rows = rows.filter(pl.col(EVENT_TIME) >= touched.first - table.lookback)
        inputs[source.name] = rows
    try:
        built = table.build(inputs)
        frame = (built if touched is None else touched.of(built)).collect()
    except Exception as error:
        raise FeatureError(
            f"The feature table {table.name!r} cannot be built: {first_line(error)}.",
            looked=f"Its build function read {', '.join(inputs)} as of {as_of:%Y-%m-%d %H:%M} UTC.",
            todo="Run the build function alone on small frames to see the whole error; the table is unchanged.",
        ) from error
    _check_columns(table, frame)
    return frame


def _check_columns(table: FeatureTable, frame: pl.DataFrame) -> None:
    needed = [*table.entity, EVENT_TIME, KNOWN_AT]
    wrong = [name for name in needed if name not in frame.columns or frame[name].null_count()]
    if wrong:
        raise FeatureError(
            f"The feature table {table.name!r} lacks values in {', '.join(wrong)}.",
            looked=f"Its build function returned the columns {', '.join(frame.columns)}.",
            todo=f"Return a row's {', '.join(needed)}, none of them null, beside its features.",
        )


def _predicate(touched: Range | None) -> str | None:
    if touched is None:
        return None
    first, last = (f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" for at in (touched.first, touched.last))
    return f"{EVENT_TIME} >= '{first}' AND {EVENT_TIME} <= '{last}'"


def _with_superseded(table: FeatureTable, new: pl.DataFrame, lake: Lake, touched: Range | None) -> pl.DataFrame:
    """`new`, and the stored rows whose entity and event time `new` has with a later `known_at` only."""
    stored = lake.scan(table_name(table))
    if set(stored.collect_schema()) != set(new.columns):
        return new
    key = [*table.entity, EVENT_TIME]
    replaced = new.lazy().group_by(key).agg(pl.col(KNOWN_AT).min().alias("_replaced_at"))
    old = stored if touched is None else touched.of(stored)
    kept = old.join(replaced, on=key).filter(pl.col(KNOWN_AT) < pl.col("_replaced_at")).collect()
    if kept.is_empty():
        return new
    return pl.concat([new, kept.select(new.columns).cast(dict(new.schema))])  # type: ignore[arg-type]  # a schema is a mapping
