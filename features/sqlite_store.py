"""Packed rows in SQLite: the online store of the embedded platform, one file a use case.

WAL and `BEGIN IMMEDIATE`: with a deferred BEGIN 25 to 88 % of concurrent read-then-write transactions fail at once.
Rows of all views lie in one table: a request reads them all in one statement. This module knows nothing of Feast.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from features.online_store import Entry, Mark, Stored, batches, instant, micros, prefix
from millrace.errors import FeatureError, first_line

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    key BLOB PRIMARY KEY, event INTEGER NOT NULL, known INTEGER NOT NULL, row BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (layout TEXT PRIMARY KEY, as_of INTEGER NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS newest (layout TEXT PRIMARY KEY, event INTEGER NOT NULL);
"""
_UPSERT = """
INSERT INTO rows VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET event = excluded.event, known = excluded.known, row = excluded.row
WHERE (excluded.event, excluded.known) >= (rows.event, rows.known)
"""
_NOTE = "INSERT INTO newest VALUES (?, ?) ON CONFLICT (layout) DO UPDATE SET event = max(event, excluded.event)"
_CHUNK = 512
"""Keys in one statement."""
_STEP = 16
"""Longer lists are padded to a multiple of it, so that few statements are compiled and kept."""


PATIENCE = 30.0
"""Seconds that a locked file is waited for."""


class SqliteRows:
    """The store's file, opened at first use; one connection a thread (`close` closes the calling thread's).

    A file that was removed or replaced is noticed. Only writing makes one; without a file there is nothing to read, or,
    with `must_exist`, reading rows fails.
    """

    def __init__(self, path: Path, *, patience: float = PATIENCE, must_exist: bool = False) -> None:
        self._path, self._patience, self._must_exist = path, patience, must_exist
        self._name = str(path)
        self._local = threading.local()

    def write(self, entries: Iterable[Entry]) -> int:
        with self._transaction() as connection:
            before = connection.total_changes
            connection.executemany(_UPSERT, entries)
            return connection.total_changes - before

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        connection = self._reading()
        found: dict[bytes, Stored] = {}
        if connection is None:
            if self._must_exist:
                raise self._failure("read", FileNotFoundError("there is no such file"))
            return [None] * len(keys)
        try:
            for chunk in map(_padded, batches(keys, _CHUNK)):
                for key, event, known, row in connection.execute(_SELECTS[len(chunk)], chunk):
                    found[key] = (event, known, row)
        except sqlite3.Error as error:
            raise self._failure("read", error) from error
        return [found.get(key) for key in keys]

    def mark(self, layout: str) -> Mark | None:
        row = self._one("SELECT as_of, version FROM marks WHERE layout = ?", layout)
        return None if row is None else Mark(instant(row[0]), row[1])

    def set_mark(self, layout: str, mark: Mark) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (layout, micros(mark.as_of), mark.version)
            )

    def newest(self, layout: str) -> int | None:
        row = self._one("SELECT event FROM newest WHERE layout = ?", layout)
        return None if row is None else row[0]

    def note_newest(self, layout: str, event: int) -> None:
        with self._transaction() as connection:
            connection.execute(_NOTE, (layout, event))

    def scan(self, layout: str) -> Iterator[Stored]:
        connection = self._reading()
        if connection is None:
            return
        try:
            yield from connection.execute(
                "SELECT event, known, row FROM rows WHERE key >= ? AND key < ?", _span(prefix(layout))
            )
        except sqlite3.Error as error:
            raise self._failure("read", error) from error

    def drop(self, view: str) -> None:
        of_view = (len(view) + 1, f"{view}.")
        with self._transaction() as connection:
            connection.execute("DELETE FROM rows WHERE key >= ? AND key < ?", _span(prefix(view)))
            connection.execute("DELETE FROM marks WHERE substr(layout, 1, ?) = ?", of_view)
            connection.execute("DELETE FROM newest WHERE substr(layout, 1, ?) = ?", of_view)

    def close(self) -> None:
        opened = getattr(self._local, "opened", None)
        if opened is not None:
            opened[0].close()
            del self._local.opened

    def _reading(self) -> sqlite3.Connection | None:
        """This thread's connection to the file that lies there now; None while there is none."""
        opened: tuple[sqlite3.Connection, int] | None = getattr(self._local, "opened", None)
        lies = self._inode()
        if opened is not None and opened[1] == lies:
            return opened[0]
        self.close()
        return self._connection() if lies else None

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; the file is made if absent."""
        opened: tuple[sqlite3.Connection, int] | None = getattr(self._local, "opened", None)
        if opened is None or opened[1] != self._inode():
            self.close()
            opened = self._local.opened = (self._open(), self._inode())
        return opened[0]

    def _inode(self) -> int:
        """Which file lies there, 0 for none: an open one that was removed can be read for ever."""
        try:
            return os.stat(self._name).st_ino  # noqa: PTH116  # half of Path's time, once a batch
        except OSError:
            return 0

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=self._patience, isolation_level=None, cached_statements=256
            )
            _use_wal(connection, self._patience)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._failure("opened", error) from error
        return connection

    def _one(self, statement: str, layout: str) -> tuple[int, ...] | None:
        try:
            connection = self._reading()
            row: tuple[int, ...] | None = connection.execute(statement, (layout,)).fetchone() if connection else None
        except sqlite3.Error as error:
            raise self._failure("read", error) from error
        return row

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:  # an interrupt must not leave the transaction open
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failure("written", error) from error

    def _failure(self, what: str, error: Exception) -> FeatureError:
        """The error, and no connection to go on with: the file may be mended or replaced under it."""
        self.close()
        return FeatureError(
            f"The online store cannot be {what}: {first_line(error)}.",
            looked=f"It lies at {self._path}.",
            todo="If it is damaged, remove the file and fill it again: millrace materialize NAME.",
        )


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Of several that open a new file at once only one can switch it, and here SQLite lets nobody wait."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def _span(first: bytes) -> tuple[bytes, bytes]:
    """The keys that begin with `first`: from the one, up to the other."""
    return first, first[:-1] + bytes([first[-1] + 1])


def _padded(keys: list[bytes]) -> list[bytes]:
    """The keys, the last repeated up to a size that there is a statement for."""
    return keys + keys[-1:] * (_size(len(keys)) - len(keys))


def _size(count: int) -> int:
    return count if count <= _STEP else -(-count // _STEP) * _STEP


def _select(size: int) -> str:
    marks = ", ".join("?" * size)
    return f"SELECT key, event, known, row FROM rows WHERE key IN ({marks})"  # noqa: S608  # nothing but question marks


_SELECTS = {size: _select(size) for size in sorted({_size(count) for count in range(1, _CHUNK + 1)})}
