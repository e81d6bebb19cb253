"""Leases: one process at a time does what only one may do, and a dead process's lease is taken over.

A lease is a row with an expiry that its holder renews from a thread. It reads the machine's clock, unlike every stage:
whether a process is alive is a question about now, never about `as_of`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import Engine, delete, update

from millrace.db.models import LeaseRow
from millrace.db.session import writing
from millrace.errors import BusyError

TTL = timedelta(seconds=60)
"""How long a lease outlives its last renewal; renewed four times as often."""


@contextmanager
def lease(engine: Engine, name: str) -> Iterator[None]:
    """Hold the lease `name` while the body runs.

    Raises `BusyError`, naming the holder, when a living process holds it. A holder on this host that has ended loses it
    at once, one on another host when its last renewal has expired.
    """
    holder = uuid4().hex
    _take(engine, name, holder)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(engine, name, holder, done), name=f"lease {name}", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        with writing(engine) as session:
            session.execute(delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder))


def _take(engine: Engine, name: str, holder: str) -> None:
    now, host, pid = datetime.now(UTC), socket.gethostname(), os.getpid()
    with writing(engine) as session:
        held = session.get(LeaseRow, name, with_for_update=True)
        if held is not None and held.expires_at > now and _alive(held, host):
            raise BusyError(
                f"Another process is already doing this ({name}).",
                looked=f"It is process {held.pid} on {held.host}, last heard of {_ago(now, held.expires_at)} ago.",
                todo="Wait for it to end, or end it; the lease of a dead process is taken over by itself.",
            )
        if held is not None:
            session.delete(held)
            session.flush()
        session.add(LeaseRow(name, holder, host, pid, now + TTL))


def _renew(engine: Engine, name: str, holder: str, done: threading.Event) -> None:
    while not done.wait(TTL.total_seconds() / 4):
        with writing(engine) as session:
            mine = (LeaseRow.name == name, LeaseRow.holder == holder)
            session.execute(update(LeaseRow).where(*mine).values(expires_at=datetime.now(UTC) + TTL))


def _alive(held: LeaseRow, host: str) -> bool:
    """Whether the holder may still run: on another host we cannot know, so its expiry decides."""
    if held.host != host:
        return True
    try:
        os.kill(held.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _ago(now: datetime, expires_at: datetime) -> str:
    return f"{max(0, int((now - (expires_at - TTL)).total_seconds()))} s"
