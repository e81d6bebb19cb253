"""The outcome log: what clients say came of predictions, written by serving and read through the lake.

Each statement is kept with when it was known and when it was received, in one SQLite file a machine and use case: a
request is one transaction, so it is in the log whole or not at all and outlives the process that took it, and what was
said before is found whichever worker took it. `ship` moves the statements into the lake exactly once. Which of several
statements holds is `millrace.outcomes`' business; this module knows nothing of models, requests or columns.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from millrace.prediction_log import Appendable, microseconds
from millrace.settings import Settings
from millrace.source import EVENT_TIME, KNOWN_AT

TABLE = "outcomes"
"""The lake's table of statements, every one of them: a correction stands beside what it corrects."""
RECEIVED_AT = "received_at"
"""Column: when the platform took the statement."""
COLUMNS: Mapping[str, pl.DataType] = {
    "prediction_id": pl.String(),
    "row_key": pl.String(),
    EVENT_TIME: pl.Datetime("us", "UTC"),
    "label": pl.String(),
    KNOWN_AT: pl.Datetime("us", "UTC"),
    RECEIVED_AT: pl.Datetime("us", "UTC"),
}
"""A statement names its predictions by `prediction_id` or by `row_key`, the other is empty; with `event_time`, only
that row's predictions for this instant. `label` is text (`1`, `0` or a class's name), which outlives the order of the
classes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL, row_key TEXT NOT NULL,
    event_time INTEGER NOT NULL, known_at INTEGER NOT NULL, label TEXT NOT NULL, received_at INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS statements ON outcomes (prediction_id, row_key, event_time, known_at, label);
CREATE TABLE IF NOT EXISTS shipping (one INTEGER PRIMARY KEY, name TEXT NOT NULL, done INTEGER, until INTEGER);
"""
_STANDING = """
SELECT known_at, label FROM outcomes WHERE (prediction_id, row_key, event_time) = (?, ?, ?)
ORDER BY known_at DESC, label DESC LIMIT 1
"""
_INSERT = """
INSERT OR IGNORE INTO outcomes (prediction_id, row_key, event_time, known_at, label, received_at)
VALUES (?, ?, ?, ?, ?, ?)
"""
_PLAN = """
UPDATE shipping SET until = (SELECT coalesce(max(number), done) FROM
    (SELECT number FROM outcomes WHERE number > done ORDER BY number LIMIT ?))
WHERE until = done
"""
_SHIPPED = """
DELETE FROM outcomes WHERE number <= (SELECT done FROM shipping)
AND received_at < (SELECT max(received_at) FROM outcomes) - ?
"""
_ANY = -(2**63)
"""Stands for no instant: SQLite holds two NULLs for different in a unique index."""
_WAIT_S = 5.0
"""How long a write waits for another worker's."""
_BATCH = 100_000
"""Most statements of one commit to the lake."""
_REMEMBERED = timedelta(days=90)
"""For how long after the lake has a statement its repetition is told from a new one. One that is not is stored again
and changes nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A statement: `label` of the prediction with this id, or, by `row_key` (`prediction_log.row_key`), of the row's
    predictions: all of them, or those for the instant `at`."""

    label: str
    known_at: datetime
    prediction_id: str = ""
    row_key: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the statements of a request came to: `accepted` say something new, `repeated` what is known already.

    Of the accepted, `corrected` replace another label, and `contradictory` differ from one that was known at the very
    same instant. Each is told from the statements that name their predictions the same way and came before.
    """

    accepted: int = 0
    repeated: int = 0
    corrected: int = 0
    contradictory: int = 0


def log_path(settings: Settings, use_case: str) -> Path:
    """The file in which the servers of this machine leave the outcomes of a use case, for `ship`."""
    return settings.folder("outcomes") / f"{use_case}.db"


class OutcomeLog:
    """The log's file, opened at the first statement. Threads may share it, and so may processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._turn = threading.Lock()

    def append(self, outcomes: Iterable[Outcome], *, received_at: datetime) -> Recorded:
        """Write the statements in their order; on return they survive this process.

        A statement that is there already, to the instant it was known at, is not written again. Raises `OSError` when
        they cannot be written (a full disk); then none of them is in the log.
        """
        received = microseconds(received_at)
        found = dict.fromkeys(("repeated", "corrected", "contradictory", "new"), 0)
        try:
            with self._turn:
                if self._connection is None:
                    self._connection = _open(self._path)
                with _transaction(self._connection):
                    for outcome in outcomes:
                        found[_write(self._connection, outcome, received)] += 1
        except sqlite3.Error as error:
            raise OSError(f"the outcome log {self._path} cannot be written: {error}") from error
        repeated = found.pop("repeated")
        return Recorded(sum(found.values()), repeated, found["corrected"], found["contradictory"])

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def ship(path: Path, lake: Appendable) -> int:
    """Move every statement of the log at `path` that the lake does not have into it; returns how many were new there.

    Killed at any point and run again, or run twice at once, each arrives once: which statements go together is
    written down before they go, and their batch's name is the lake's.
    """
    shipped = 0
    if not path.exists():
        return shipped
    with closing(_open(path)) as connection:
        while (planned := _plan(connection)) is not None:
            name, done, until, rows = planned
            commit = lake.append(TABLE, _frame(rows), batch=f"outcomes:{name}:{done}-{until}")
            shipped += 0 if commit.repeated else len(rows)
            with _transaction(connection):
                connection.execute("UPDATE shipping SET done = ? WHERE done = ?", (until, done))
                connection.execute(_SHIPPED, (_REMEMBERED // timedelta(microseconds=1),))
    return shipped


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # what is committed outlives the process, as the segments do
        with _transaction(connection):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO shipping VALUES (1, ?, 0, 0)", (secrets.token_hex(6),))
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # whatever ends the body, nothing of it stays; it goes on its way
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _write(connection: sqlite3.Connection, outcome: Outcome, received: int) -> str:
    """Write a statement unless it is there; what it is beside those before it."""
    known = microseconds(outcome.known_at)
    named = (outcome.prediction_id, outcome.row_key, _ANY if outcome.at is None else microseconds(outcome.at))
    before = connection.execute(_STANDING, named).fetchone()
    if not connection.execute(_INSERT, (*named, known, outcome.label, received)).rowcount:
        return "repeated"
    if before is None or known < before[0]:
        return "new"
    if outcome.label == before[1]:
        return "repeated"
    return "contradictory" if known == before[0] else "corrected"


def _plan(connection: sqlite3.Connection) -> tuple[str, int, int, list[tuple[Any, ...]]] | None:
    """The log's name, the last statement that was shipped, the last that now is, and the rows in between."""
    with _transaction(connection):
        connection.execute(_PLAN, (_BATCH,))
        name, done, until = connection.execute("SELECT name, done, until FROM shipping").fetchone()
        columns = "prediction_id, row_key, event_time, label, known_at, received_at"
        between = f"SELECT {columns} FROM outcomes WHERE number > ? AND number <= ? ORDER BY number"  # noqa: S608  # ours
        rows = connection.execute(between, (done, until)).fetchall()
    return (name, done, until, rows) if until > done else None


def _frame(rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    plain = {name: pl.String if dtype == pl.String else pl.Int64 for name, dtype in COLUMNS.items()}
    frame = pl.DataFrame(rows, schema=plain, orient="row")
    return frame.with_columns(pl.col(EVENT_TIME).replace(_ANY, None)).cast(pl.Schema(COLUMNS))
