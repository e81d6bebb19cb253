"""The lake: versioned tables (Delta Lake, read with polars) of raw, quarantined, feature, prediction and label rows.

A commit that belongs to a batch carries the batch's name as a Delta application transaction, in the same atomic commit
as the rows: a batch is in the table entirely or not at all, and a second commit of it is a no-op that says so. A cursor
(how far a table has been filled) and other marks travel in the same commit. This module knows nothing of use cases,
schemas or time beyond the two columns every table has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from millrace.delta_types import storable
from millrace.errors import BusyError, LakeError, first_line
from millrace.settings import Settings
from millrace.source import KNOWN_AT

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

_CURSOR = "millrace.cursor"
"""Application transaction whose version is the cursor, in microseconds since 1970 (UTC)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ATTEMPTS = 100
"""How often a commit is tried again after another writer won the race for the next version."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a write did: the table's version after it, the rows it inserted or updated.

    `repeated`: the batch was already in the table and nothing was written (`rows` is 0).
    """

    table: str
    version: int
    rows: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class _Marks:
    """What a commit leaves in the log beside its rows."""

    batch: str | None = None
    cursor: datetime | None = None
    more: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def properties(self) -> CommitProperties:
        from deltalake import CommitProperties, Transaction

        transactions = [Transaction(self.batch, 1)] if self.batch else []
        if self.cursor is not None:
            transactions.append(Transaction(_CURSOR, (self.cursor - _EPOCH) // timedelta(microseconds=1)))
        transactions += [Transaction(name, value) for name, value in self.more.items()]
        # No retries inside deltalake: its own lets two first commits of one batch both in (46 of 60 trials, 1.6.6), and
        # a commit that looked at an older version must look again.
        about = {f"millrace.{name}": text for name, text in self.about.items()}
        return CommitProperties(about, app_transactions=transactions, max_commit_retries=0)


class Lake:
    """The tables below one root: a folder, or an object-store URL with its storage options.

    Table names are paths such as `raw/flights`. Every writer may run at the same time as any other: Delta's optimistic
    commits decide who is first, the others read the new version and try again.
    """

    def __init__(self, root: str, options: Mapping[str, str] | None = None) -> None:
        self.root = root.rstrip("/")
        self.options = dict(options or {})

    def uri(self, table: str) -> str:
        """Where a table lies."""
        return f"{self.root}/{table}"

    def exists(self, table: str) -> bool:
        """Whether a table has been written at least once."""
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self.uri(table), self.options))

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        if "://" not in self.root:
            logs = Path(self.root).glob("**/_delta_log")
            return sorted(log.parent.relative_to(self.root).as_posix() for log in logs)
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import FileSelector, PyFileSystem

        files = PyFileSystem(DeltaStorageHandler(self.root, self.options)).get_file_info(
            FileSelector("", recursive=True)
        )
        return sorted({file.path.split("/_delta_log/")[0] for file in files if "/_delta_log/" in file.path})

    def version(self, table: str) -> int:
        """The number of the newest version; `LakeError` when there is no such table."""
        return int(self._open(table).version())

    def cursor(self, table: str) -> datetime | None:
        """How far the table has been filled, by its last commit with a cursor; `None` without a table or a cursor."""
        at = self.marks(table, [_CURSOR]).get(_CURSOR)
        return None if at is None else _EPOCH + timedelta(microseconds=at)

    def marks(self, table: str, names: Iterable[str]) -> dict[str, int]:
        """The numbers that the last commits with these marks left; none without a table or such a mark."""
        if not self.exists(table):
            return {}
        now = self._open(table)
        found = {name: now.transaction_version(name) for name in names}
        return {name: number for name, number in found.items() if number is not None}

    def scan(self, table: str, *, version: int | None = None) -> pl.LazyFrame:
        """The table's rows, lazily, as of its newest or a given version.

        Raises `LakeError` when the table or the version does not exist.
        """
        return pl.scan_delta(self._open(table, version))

    def changes(self, table: str, *, since: int) -> pl.LazyFrame:
        """The rows of the newest version that the version `since` did not have, in files that are not shared by both.

        A row that was rewritten unchanged is not among them. Raises `LakeError` when `since` is gone.
        """
        now, then = self._open(table), self._open(table, since)
        files, before = set(now.file_uris()), set(then.file_uris())
        rows = self._files(now, files - before)
        if before <= files:
            return rows
        return rows.join(self._files(now, before - files), on=list(rows.collect_schema()), how="anti", nulls_equal=True)

    def _schema(self, now: DeltaTable | None) -> pl.Schema:
        return pl.Schema() if now is None else pl.scan_delta(now).collect_schema()

    def _files(self, table: DeltaTable, files: set[str]) -> pl.LazyFrame:
        schema = self._schema(table)
        if not files:
            return pl.LazyFrame(schema=schema)
        return pl.scan_parquet(sorted(files), schema=schema, missing_columns="insert", storage_options=self.options)

    def append(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        batch: str | None = None,
        cursor: datetime | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Commit:
        """Add rows, all of them. New columns are null in older rows; a column of another type raises `LakeError`.

        `about` is written into the table's history beside the commit.
        """
        marks = _Marks(batch, cursor, about=about or {})

        def write(now: DeltaTable | None) -> int:
            return self._write(table, now, frame, marks, mode="append", schema_mode="merge")

        return self._commit(table, batch, write)

    def merge(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        key: Sequence[str],
        batch: str | None = None,
        cursor: datetime | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Commit:
        """Insert rows with a new key and update those whose `known_at` is newer than the stored one; keep the others.

        Of several rows with one key in `frame` the newest `known_at` counts (the last of equal ones). A null in a key
        column raises `LakeError`. Earlier values stay readable at earlier versions.
        """
        newest, marks = _newest(table, frame, key), _Marks(batch, cursor, about=about or {})

        def write(now: DeltaTable | None) -> int:
            if now is None:
                return self._write(table, None, newest, marks)
            rows, corrects = _changed(now, storable(newest, self._schema(now), self.uri(table)), key)
            if corrects:
                _upsert(now, rows, key, marks)
            elif rows.height or batch or cursor:
                self._write(table, now, rows, marks, mode="append", schema_mode="merge")
            return rows.height

        return self._commit(table, batch, write)

    def replace(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        where: str | None = None,
        batch: str | None = None,
        marks: Mapping[str, int] | None = None,
    ) -> Commit:
        """Put `frame` in the place of the rows that the SQL predicate `where` selects; with None, of the whole table.

        Every row of `frame` must itself satisfy the predicate. One atomic commit: readers see the old rows or the new.
        `marks` are numbers to find again with the method `marks`.
        """
        left = _Marks(batch, None, marks or {})

        def write(now: DeltaTable | None) -> int:
            mode: dict[str, Any] = {"schema_mode": "overwrite"} if where is None else {"predicate": where}
            return self._write(table, now, frame, left, mode="overwrite", **mode)

        return self._commit(table, batch, write)

    def _write(self, table: str, now: DeltaTable | None, frame: pl.DataFrame, marks: _Marks, **mode: Any) -> int:
        """Write the frame as `mode` says, or create the table (which fails if another writer just did)."""
        from deltalake import write_deltalake

        free = now is None or mode.get("schema_mode") == "overwrite"
        write_deltalake(
            self.uri(table) if now is None else now,
            storable(frame, self._schema(None if free else now), self.uri(table)),
            storage_options=self.options,
            commit_properties=marks.properties(),
            **({"mode": "error"} if now is None else mode),
        )
        return frame.height

    def _open(self, table: str, version: int | None = None) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(self.uri(table), version=version, storage_options=self.options)
        except TableNotFoundError as error:
            raise LakeError(
                f"The lake has no table {table!r}.",
                looked=f"It would lie at {self.uri(table)}; the lake holds {', '.join(self.tables()) or 'no table'}.",
                todo="Fill it first: `millrace ingest NAME` writes raw tables, `millrace materialize NAME` features.",
            ) from error
        except DeltaError as error:
            wanted = "" if version is None else f" at version {version}"
            raise LakeError(
                f"The table {table!r} cannot be read{wanted}: {first_line(error)}.",
                looked=f"It lies at {self.uri(table)}.",
                todo="Ask for a version that exists; the newest is the default.",
            ) from error

    def _commit(self, table: str, batch: str | None, write: Callable[[DeltaTable | None], int]) -> Commit:
        """Run `write` on the newest version; again if another writer was first, not at all if the batch is there."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        for _ in range(_ATTEMPTS):
            now = self._open(table) if self.exists(table) else None
            if now is not None and batch is not None and now.transaction_version(batch) is not None:
                return Commit(table, now.version(), 0, True)
            try:
                rows = write(now)
            except CommitFailedError:
                continue
            except DeltaError as error:
                if now is None and self.exists(table):
                    continue
                raise LakeError(
                    f"The rows do not fit the table {table!r}: {first_line(error)}.",
                    looked=f"It lies at {self.uri(table)}.",
                ) from error
            return Commit(table, self.version(table), rows, False)
        raise BusyError(
            f"The table {table!r} is being written by others without a pause.",
            looked=f"{_ATTEMPTS} attempts to commit to {self.uri(table)} lost the race.",
            todo="Type the same command again later; nothing of it was written.",
        )


def open_lake(settings: Settings, use_case_name: str) -> Lake:
    """The lake of one use case."""
    return Lake(f"{settings.lake}/{use_case_name}", settings.lake_options)


def _changed(now: DeltaTable, frame: pl.DataFrame, key: Sequence[str]) -> tuple[pl.DataFrame, bool]:
    """The rows that the table lacks or has as known earlier, and whether there are any of the latter.

    Looking costs a sixth of a Delta merge (300,000 rows, 7,000 new), and most batches then need none: they only append.
    """
    stored = pl.scan_delta(now).select(*key, pl.col(KNOWN_AT).alias("__stored"))
    stored = stored.join(frame.lazy().select(key), on=list(key), how="semi")
    known = frame.lazy().join(stored, on=list(key), how="left", maintain_order="left").collect()
    changed = known.filter(pl.col("__stored").is_null() | (pl.col(KNOWN_AT) > pl.col("__stored")))
    return changed.drop("__stored"), changed["__stored"].null_count() < changed.height


def _upsert(now: DeltaTable, frame: pl.DataFrame, key: Sequence[str], marks: _Marks) -> None:
    merger = now.merge(
        frame,
        predicate=" AND ".join(f'target."{column}" = source."{column}"' for column in key),
        source_alias="source",
        target_alias="target",
        merge_schema=True,
        commit_properties=marks.properties(),
    )
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def _newest(table: str, frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """One row a key, the newest known."""
    empty = [column for column in key if frame[column].null_count()]
    if empty:
        raise LakeError(f"Rows for the table {table!r} have no value in the key column {', '.join(empty)}.")
    if frame.n_unique(key) == frame.height:
        return frame
    return frame.sort(KNOWN_AT, maintain_order=True).unique(list(key), keep="last", maintain_order=True)
