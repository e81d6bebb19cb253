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
    gives for `place`; without one it is a path or an fsspec URL itself. A date pattern such as `%Y-%m-%d` (of `%Y %m %d
    %H`, in UTC) in `path` names the hour, day, month or year in which a file's rows became known, or up to `late` after
    it, so that only the files of the range are read; a row outside of it stops the batch. `event_time` and `known_at`
    name the columns that become those (ISO texts, dates and datetimes; without a zone they are UTC). `known_at=None`
    takes the time at which a file was last written; then only files written in the range are read.

    `types` are a CSV's columns (polars types); None reads all, in the schema's types, or inferred where a value is not
    of those, which the validation then tells. `prepare` turns the rows of one file into the source's; it runs before
    the two times are looked for. With `complete`, a file without rows and a CSV whose last line has no end are refused,
    because they look cut.
    """

    path: str | Path
    place: str = ""
    event_time: str = EVENT_TIME
    known_at: str | None = KNOWN_AT
    late: timedelta = timedelta(0)
    types: Mapping[str, Any] | None = None
    null_values: tuple[str, ...] = ("",)
    complete: bool = True
    prepare: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None

    def __post_init__(self) -> None:
        path, name = str(self.path), str(self.path) or self.place
        codes = set(re.findall("%([A-Za-z])", path))
        require("Files", name, bool(path or self.place), "path or place must be given")
        rule = "a date pattern is one of %Y, %Y-%m, %Y-%m-%d and %Y-%m-%d %H, in any order and with any signs between"
        require(
            "Files", name, "".join(code for code in "YmdH" if code in codes) in ("", "Y", "Ym", "Ymd", "YmdH"), rule
        )
        require("Files", name, codes <= set("YmdH"), rule)
        rule = "a date pattern names times of known_at, so known_at must be a column; write * instead of the date"
        require("Files", name, not codes or self.known_at is not None, rule)
        require("Files", name, self.late >= timedelta(0), "late must not be negative")


@dataclass(frozen=True, slots=True)
class Query:
    """Rows of an SQL table or `SELECT`, read page by page in the order of `known_at` and the source's key.

    `place` names the database in the setting `MILLRACE_PLACES` (an SQLAlchemy URL, such as `postgresql+psycopg://…`).
    `sql` is a table's name or one SELECT without ORDER BY or LIMIT, whose columns `event_time` and `known_at` become
    those two times (times, dates or ISO texts; without a zone they are UTC); rows without a `known_at` are not read,
    as nobody knows them yet. Each page starts after the last row of the one before (keyset paging: no row is skipped or
    read twice while others write), so an index on (known_at, key) makes every page cheap. `prepare` turns the rows as
    the database has them into the source's; `known_at` must be a column before and after it.
    """

    place: str
    sql: str
    event_time: str = EVENT_TIME
    known_at: str = KNOWN_AT
    page_rows: int = 50_000
    prepare: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None

    def __post_init__(self) -> None:
        require("Query", self.place, bool(self.place), "place must name a database of MILLRACE_PLACES")
        require("Query", self.place, bool(self.sql.strip()), "sql must be a table's name or a SELECT")
        require("Query", self.place, self.page_rows > 0, "page_rows must be positive")


@dataclass(frozen=True, slots=True)
class Plausible:
    """How far a batch may differ from the batches before it; beyond that it is stopped, not ingested.

    The numbers' magnitudes, the shares of missing values and of zeros, the rows, and the silence at either end are
    compared with the rows that the lake already has (docs/decisions/0007-anomalies.md says how, and why these limits).
    `ignore` names columns that are not compared: `known_at` stands for rows and silence, `event_time` for events in the
    future, `*` for all.
    """

    unit_jump: float = 3.0
    """Numbers may be this many times larger or smaller than ever before; beyond that their unit changed."""
    jumped: float = 0.05
    """Share of a column's values, beside what chance adds, that may lie beyond `unit_jump`."""
    null_rise: float = 0.15
    """How far the share of missing values, or of zeros, may rise above its highest so far, beside what chance adds."""
    fewest_rows: float = 0.5
    """A batch with fewer than this share of the fewest rows of a stretch as long so far is truncated."""
    longest_silence: float = 2.0
    """A batch whose beginning or end is silent for this many times the longest silence so far is truncated."""
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.ignore, tuple):
            raise UseCaseError(f"Plausible: ignore must be a tuple of column names, not {self.ignore!r}.")
        limits = (self.unit_jump > 1, self.jumped >= 0, self.null_rise >= 0, self.fewest_rows >= 0)
        if not all(limits) or self.longest_silence < 1:
            raise UseCaseError(
                "Plausible: unit_jump must exceed 1, longest_silence must be at least 1, and the others not negative."
            )


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
    """How long after its `known_at` an event may lie (a schedule is known ahead); None: half as long again as in the
    rows so far, and an hour. An event further in the future stops the batch."""
    plausible: Plausible = field(default_factory=Plausible)

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        readable = isinstance(self.read, Files | Query) or callable(self.read)
        rule = "read must be Files(…), Query(…) or a function (since, until) -> polars.DataFrame"
        require("Source", self.name, readable, rule)
        require("Source", self.name, callable(self.schema), "schema must be a function that returns a pandera schema")
        require("Source", self.name, len(self.key) > 0, "key must name at least one column")
        require("Source", self.name, 0 <= self.max_bad_share < 1, "max_bad_share must lie in [0, 1)")
        require("Source", self.name, self.ahead is None or self.ahead >= timedelta(0), "ahead must not be negative")


def check_name(kind: str, name: object) -> None:
    """Raise `UseCaseError` unless this is a name that files, tables and labels can bear."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UseCaseError(f"{kind} name {name!r} must be lower-case letters, digits and underscores, at most 63.")


def require(kind: str, name: str, holds: bool, rule: str) -> None:
    """Raise `UseCaseError` with the rule when it does not hold."""
    if not holds:
        raise UseCaseError(f"{kind} {name!r}: {rule}.")
