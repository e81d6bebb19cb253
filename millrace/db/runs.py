"""Runs: what the platform does now, and what became of it when its process died without a word.

A run renews its row from a thread while it works. One that is not heard of any more, or whose process on this host has
ended, is lost: it is marked so by whoever looks next. Like the leases this reads the machine's clock, never `as_of`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import OperationalError

from millrace.db.models import RunRow
from millrace.db.session import reading, writing

SILENCE = timedelta(seconds=120)
"""How long a run is believed to live after it was last heard of; it is heard of eight times as often."""


def start_run(engine: Engine, use_case: str, kind: str, as_of: datetime) -> int:
    """Record that this process starts a piece of work; returns the run's id."""
    now = datetime.now(UTC)
    with writing(engine) as session:
        row = RunRow(use_case, kind, as_of, now, "running", host=socket.gethostname(), pid=os.getpid(), heard_at=now)
        session.add(row)
        session.flush()
        return row.id


@contextmanager
def heard_of(engine: Engine, run: int) -> Iterator[None]:
    """Let the run be heard of while the body runs."""
    done = threading.Event()
    speaker = threading.Thread(target=_speak, args=(engine, run, done), name=f"run {run}", daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()


def lose_dead_runs(engine: Engine) -> Sequence[RunRow]:
    """Mark the runs whose process has died as `lost`, ended when they were last heard of; returns these runs.

    A process of this host is asked for; one of another host is believed until `SILENCE` is over. A run that was taken
    for dead and ends all the same (its machine slept) says so itself afterwards, and that holds.
    """
    with reading(engine) as session:
        running = session.scalars(select(RunRow).where(RunRow.state == "running")).all()
    now, host = datetime.now(UTC), socket.gethostname()
    return [row for row in running if not _lives(row, now, host) and _lose(engine, row)]


def _speak(engine: Engine, run: int, done: threading.Event) -> None:
    while not done.wait(SILENCE.total_seconds() / 8):
        with suppress(OperationalError), writing(engine) as session:  # a database that is away is asked again
            session.execute(update(RunRow).where(RunRow.id == run).values(heard_at=datetime.now(UTC)))


def _lives(row: RunRow, now: datetime, host: str) -> bool:
    """Whether its process may still work; a process id alone proves nothing, since it may be another process's now."""
    if now - (row.heard_at or row.started_at) >= SILENCE:
        return False
    if row.host != host or row.pid is None:
        return True
    try:
        os.kill(row.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lose(engine: Engine, row: RunRow) -> bool:
    """Mark it unless it has ended or was heard of meanwhile; whether it was marked."""
    where = f"process {row.pid} on {row.host}" if row.host else "unknown process"
    heard = row.heard_at or row.started_at
    said = {"error": f"Its {where} ended without a word; it was last heard of at {heard:%Y-%m-%d %H:%M:%S} UTC."}
    with writing(engine) as session:
        heard_then = RunRow.heard_at.is_(None) if row.heard_at is None else RunRow.heard_at == row.heard_at
        mine = (RunRow.id == row.id, RunRow.state == "running", heard_then)
        changed = session.execute(update(RunRow).where(*mine).values(state="lost", ended_at=heard, detail=said))
        return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result always has it
