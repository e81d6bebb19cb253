"""Where a use case's rows come from: functions, files or SQL, and what a batch of them must look like.

These are declarations; the ingest room reads them. Places and passwords are settings (`MILLRACE_PLACES`), never here.
All times are timezone-aware UTC instants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import UseCaseError

if TYPE_CHECKING:
    import polars as pl

EVENT_TIME = "event_time"
"""Column of every lake table: when the thing happened (UTC)."""
KNOWN_AT = "known_at"
"""Column of every lake table: when the platform could have known it (UTC)."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Files:
    """Rows of CSV or Parquet files, local or in an object store (through fsspec).

    `path` is a file, a folder or a pattern (`flights/*.parquet`), below the place that the setting `MILLRACE_PLACES`
    gives for `place`; without one it is a path or an fsspec URL itself. A date pattern such as `%Y-%m-%d` in `path`
    names the day, month or year whose rows (by `known_at`) a file holds, so that only the files of the range are read.
    `event_time` and `known_at` name the columns that become those; `known_at=None` takes the time at which a file was
    last written, and then only files written in the range are read. `types` are a CSV's columns (polars types; None
    reads all and infers). `prepare` turns the rows as they lie in the files into the source's; it runs before the two
    times are looked for.
    """

    path: str | Path
    place: str = ""
    event_time: str = EVENT_TIME
    known_at: str | None = KNOWN_AT
    types: Mapping[str, Any] | None = None
    null_values: tuple[str, ...] = ("",)
    prepare: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Rows of an SQL table or `SELECT`, read page by page in the order of `known_at` and the source's key.

    `place` names the database in the setting `MILLRACE_PLACES` (an SQLAlchemy URL, such as `postgresql+psycopg://…`).
    `sql` is a table's name or one SELECT without ORDER BY or LIMIT, whose columns `event_time` and `known_at` are those
    two times. Each page starts after the last row of the one before (keyset paging: no row is skipped or read twice
    while others write), so an index on (known_at, key) makes every page cheap.
    """

    place: str
    sql: str
    event_time: str = EVENT_TIME
    known_at: str = KNOWN_AT
    page_rows: int = 50_000
    prepare: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None


@dataclass(frozen=True, slots=True)
class Plausible:
    """How far a batch may differ from the batches before it; beyond that it is stopped, not ingested.

    Compared are numbers' magnitudes, shares of missing values, rows, and the silence at the batch's end, with the rows
    that the lake already has. `ignore` names columns that are not compared (`*`: none is).
    """

    unit_jump: float = 10.0
    """A number column whose values are all this many times larger or smaller than ever before changed its unit."""
    null_rise: float = 0.3
    """A column whose share of missing values rises by this much above its highest so far is flooded with nulls."""
    fewest_rows: float = 0.5
    """A batch with fewer than this share of the fewest rows of a stretch as long so far is truncated."""
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from.

    `read` is `Files`, a `Query`, or a function: `read(since, until)` returns every row with `since < known_at <= until`
    (either may be read again at any time), with the columns `event_time` and `known_at` as UTC datetimes beside its
    own. `key` names the columns that identify a row; of two rows with one key the later `known_at` wins. `schema`
    builds the pandera (polars) schema of a frame.
    """

    name: str
    read: Callable[[datetime, datetime], pl.DataFrame] | Files | Query
    schema: Callable[[], Any]
    key: tuple[str, ...]
    overlap: timedelta = timedelta(0)
    """How far before the last `until` each ingest reads again, for rows that arrive late."""
    max_bad_share: float = 0.1
    """Share of rows that may break the schema and go to quarantine; above it the whole batch is refused."""
    ahead: timedelta | None = None
    """How long after its `known_at` an event may lie (a schedule is known ahead); None: as long as in the rows so far.
    An event further in the future stops the batch."""
    plausible: Plausible = field(default_factory=Plausible)

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        readable = isinstance(self.read, Files | Query) or callable(self.read)
        rule = "read must be Files(…), Query(…) or a function (since, until) -> polars.DataFrame"
        require("Source", self.name, readable, rule)
        require("Source", self.name, callable(self.schema), "schema must be a function that returns a pandera schema")
        require("Source", self.name, len(self.key) > 0, "key must name at least one column")
        require("Source", self.name, 0 <= self.max_bad_share < 1, "max_bad_share must lie in [0, 1)")


def check_name(kind: str, name: object) -> None:
    """Raise `UseCaseError` unless this is a name that files, tables and labels can bear."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UseCaseError(f"{kind} name {name!r} must be lower-case letters, digits and underscores, at most 63.")


def require(kind: str, name: str, holds: bool, rule: str) -> None:
    """Raise `UseCaseError` with the rule when it does not hold."""
    if not holds:
        raise UseCaseError(f"{kind} {name!r}: {rule}.")
