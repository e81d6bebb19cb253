"""The lake: versioned tables (Delta Lake, read with polars) of raw, quarantined, feature, prediction and label rows.

A commit that belongs to a batch carries the batch's name as a Delta application transaction, in the same atomic commit
as the rows: a batch is in the table entirely or not at all, and a second commit of it is a no-op that says so. A cursor
(how far a table has been filled), other marks and the digest of the batch's rows travel in the same commit. Checking,
vacuuming and what they protect is `millrace.lake.care`'s business. This module knows nothing of use cases, schemas or
time beyond the two columns every table has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from millrace.errors import BusyError, LakeError, first_line
from millrace.lake.files import TableFiles
from millrace.lake.log import CURSOR, EPOCH, Marks, Version, Wrote, read_version
from millrace.lake.merge import changed_rows, newest_rows, upsert
from millrace.lake.opening import open_table, paths_of
from millrace.lake.types import storable
from millrace.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable

_KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}
"""Of every table: else deltalake deletes log entries of 30 days ago at each checkpoint, and with them the versions that
models were trained on, whatever a vacuum keeps."""
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
        return int(self.delta(table).version())

    def cursor(self, table: str) -> datetime | None:
        """How far the table has been filled, by its last commit with a cursor; `None` without a table or a cursor."""
        at = self.marks(table, [CURSOR]).get(CURSOR)
        return None if at is None else EPOCH + timedelta(microseconds=at)

    def marks(self, table: str, names: Iterable[str], *, version: int | None = None) -> dict[str, int]:
        """The numbers that the last commits with these marks left, as of the newest or a given version; none without a
        table or such a mark."""
        if not self.exists(table):
            return {}
        now = self.delta(table, version)
        found = {name: now.transaction_version(name) for name in names}
        return {name: number for name, number in found.items() if number is not None}

    def history(self, table: str) -> list[Version]:
        """Every commit to the table, the newest first."""
        return [read_version(entry) for entry in self.delta(table).history()]

    def scan(self, table: str, *, version: int | None = None, at: datetime | None = None) -> pl.LazyFrame:
        """The table's rows, lazily, as of its newest version, a given one, or the newest one at a moment.

        `at` is compared with the times of the commits, which are their writers' clocks. Raises `LakeError` when the
        table or the version does not exist, or when files of the version have been vacuumed.
        """
        if at is not None:
            version = self._version_at(table, at)
        opened = self.delta(table, version)
        if version is not None:
            self._check_present(table, opened, paths_of(opened))
        return pl.scan_delta(opened)

    def files(self, table: str, *, version: int | None = None) -> frozenset[str]:
        """The data files of a version (the newest by default), by their path below the table; they may be gone."""
        return paths_of(self.delta(table, version))

    def rows_of(self, table: str, files: Iterable[str], *, version: int) -> pl.LazyFrame:
        """The rows of some data files, with the columns of a version; `LakeError` when one of the files is gone."""
        opened, wanted = self.delta(table, version), frozenset(files)
        self._check_present(table, opened, wanted)
        return self._rows(table, opened, wanted)

    def changes(self, table: str, *, since: int, until: int | None = None) -> pl.LazyFrame:
        """The rows of the version `until` (the newest by default) that `since` did not have, as files are not shared.

        A row that was rewritten unchanged is not among them. `since=-1` is before the first version. Raises `LakeError`
        when a version, or a file that tells them apart, is gone.
        """
        now = self.delta(table, until)
        files = paths_of(now)
        before = paths_of(self.delta(table, since)) if since >= 0 else frozenset()
        if until is not None or not before <= files:
            self._check_present(table, now, files ^ before)
        rows = self._rows(table, now, files - before)
        if before <= files:
            return rows
        old = self._rows(table, now, before - files)
        return rows.join(old, on=list(rows.collect_schema()), how="anti", nulls_equal=True)

    def _version_at(self, table: str, at: datetime) -> int:
        history = self.history(table)
        found = next((version.number for version in history if version.at <= at), None)
        if found is None:
            raise LakeError(
                f"The table {table!r} did not exist at {at:%Y-%m-%d %H:%M:%S %Z}.",
                looked=f"Its first commit was at {history[-1].at:%Y-%m-%d %H:%M:%S %Z}.",
                todo="Ask for a later moment.",
            )
        return found

    def _check_present(self, table: str, opened: DeltaTable, files: frozenset[str]) -> None:
        gone = files - TableFiles(self.uri(table), self.options).sizes().keys()
        if gone:
            raise LakeError(
                f"The table {table!r} cannot be read at version {opened.version()}: {len(gone)} of its files are gone.",
                looked=f"The first is {min(gone)}, below {self.uri(table)}; a vacuum keeps what is new or trained on.",
                todo="Ask for a later version; `millrace lake history USE_CASE TABLE` shows which can be read.",
            )

    def _schema(self, now: DeltaTable | None) -> pl.Schema:
        return pl.Schema() if now is None else pl.scan_delta(now).collect_schema()

    def _rows(self, table: str, opened: DeltaTable, files: frozenset[str]) -> pl.LazyFrame:
        schema = self._schema(opened)
        if not files:
            return pl.LazyFrame(schema=schema)
        places = [f"{self.uri(table)}/{path}" for path in sorted(files)]
        return pl.scan_parquet(places, schema=schema, missing_columns="insert", storage_options=self.options)

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
        marks = Marks("append", batch, cursor, about=about or {})

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
        newest, marks = newest_rows(table, frame, key), Marks("merge", batch, cursor, about=about or {})

        def write(now: DeltaTable | None) -> int:
            if now is None:
                return self._write(table, None, newest, marks, by=key)
            rows, corrects = changed_rows(now, storable(newest, self._schema(now), self.uri(table)), key)
            if corrects:
                upsert(now, rows, key, marks)
            elif rows.height or batch or cursor:
                self._write(table, now, rows, marks, by=key, mode="append", schema_mode="merge")
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
        left = Marks("replace", batch, None, marks or {})

        def write(now: DeltaTable | None) -> int:
            mode: dict[str, Any] = {"schema_mode": "overwrite"} if where is None else {"predicate": where}
            return self._write(table, now, frame, left, mode="overwrite", **mode)

        return self._commit(table, batch, write)

    def compact(self, table: str) -> Commit:
        """Put the table's rows into as few files as they need: one commit, which changes no row.

        `repeated`: it lay in one file already and nothing was written. The rows are held in memory. deltalake's own
        compaction is not used: two of them at once (1.6.6, no retries) leave every row twice.
        """
        marks = Marks("compact")

        def write(now: DeltaTable | None) -> int:
            if now is None or len(paths_of(now)) < 2:
                return 0
            return self._write(table, now, pl.scan_delta(now).collect(), marks, mode="overwrite")

        version = self.version(table)
        done = self._commit(table, None, write)
        return Commit(table, done.version, done.rows, done.version == version)

    def _write(
        self, table: str, now: DeltaTable | None, frame: pl.DataFrame, marks: Marks, by: Sequence[str] = (), **mode: Any
    ) -> int:
        """Write the frame as `mode` says, or create the table (which fails if another writer just did)."""
        from deltalake import write_deltalake

        free = now is None or mode.get("schema_mode") == "overwrite"
        rows = storable(frame, self._schema(None if free else now), self.uri(table))
        whole = now is None or (mode["mode"] == "overwrite" and "predicate" not in mode)
        described = (marks.batch or marks.did == "compact") and "predicate" not in mode
        wrote = Wrote.of(rows, by, whole=whole) if described else None
        write_deltalake(
            self.uri(table) if now is None else now,
            rows,
            storage_options=self.options,
            commit_properties=marks.properties(wrote),
            **({"mode": "error", "configuration": _KEEP_LOG} if now is None else mode),
        )
        return frame.height

    def delta(self, table: str, version: int | None = None) -> DeltaTable:
        """Delta's own object of a table at its newest or a given version; `LakeError` when there is none."""
        return open_table(self.uri(table), self.options, table, version, there_are=self.tables)

    def _commit(self, table: str, batch: str | None, write: Callable[[DeltaTable | None], int]) -> Commit:
        """Run `write` on the newest version; again if another writer was first, not at all if the batch is there."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        for _ in range(_ATTEMPTS):
            now = self.delta(table) if self.exists(table) else None
            if now is not None and batch is not None and now.transaction_version(batch) is not None:
                return Commit(table, now.version(), 0, True)
            before = frozenset[str]() if now is None else paths_of(now)
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
            done = self.delta(table, 0) if now is None else now  # deltalake moves the table it wrote to on
            self._seal(table, done.version(), paths_of(done) - before)
            return Commit(table, done.version(), rows, False)
        raise BusyError(
            f"The table {table!r} is being written by others without a pause.",
            looked=f"{_ATTEMPTS} attempts to commit to {self.uri(table)} lost the race.",
            todo="Type the same command again later; nothing of it was written.",
        )

    def _seal(self, table: str, version: int, added: frozenset[str]) -> None:
        """Seal what a commit added. The commit stands whatever comes of it: without a seal its digest tells of it."""
        if added:
            with suppress(OSError):
                TableFiles(self.uri(table), self.options).seal(version, added)


def open_lake(settings: Settings, use_case_name: str) -> Lake:
    """The lake of one use case."""
    return Lake(f"{settings.lake}/{use_case_name}", settings.lake_options)
