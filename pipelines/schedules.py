"""What is due: the scheduled work of a use case whose time has come since it was last done.

Our database says what was done, so a time that was missed (the machine slept, the worker was away) is caught up once:
work runs as of the latest time at which its line fired, and the times before that are covered by it. Who calls
this, a worker of Prefect or the command line, is of no matter, and two that do so at once do it once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from millrace.cron import parse_cron
from millrace.db import RunRow
from millrace.errors import BusyError
from pipelines.workspace import Workspace

Work = Literal["ingest", "score", "monitor"]
WORKS: tuple[Work, ...] = get_args(Work)
"""In the order in which one needs the other: what is predicted is ingested first, what is watched is predicted."""
PAUSE = timedelta(minutes=10)
"""How long work that failed rests before it is tried again for the same time."""
_PATIENCE_S, _POLL_S = 600.0, 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One piece of work at one moment: to be done as of `as_of`, or not now, and why.

    `since` is the time it was last done for; None when it never was.
    """

    work: Work
    as_of: datetime | None
    since: datetime | None = None
    why_not: str = ""

    @property
    def due(self) -> bool:
        """Whether it is to be done."""
        return self.as_of is not None and not self.why_not

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"work": self.work, "as_of": self.as_of, "since": self.since, "due": self.due, "why_not": self.why_not}


def next_turn(ws: Workspace, work: Work, now: datetime, *, patient: bool = True) -> Turn:
    """Whether this work is due at `now` (UTC); `patient` leaves work that has just failed its pause."""
    line = getattr(ws.use_case.schedule, work)
    if not line:
        return Turn(work, None, why_not="It is not scheduled.")
    as_of = parse_cron(line).last(now)
    runs = ws.db.runs(ws.use_case.name, _kind(work))
    done = next((run for run in runs if run.state == "done"), None)
    since = done.as_of if done else None
    if since is not None and since >= as_of:
        return Turn(work, as_of, since, f"It was done for {since:%Y-%m-%d %H:%M} UTC.")
    if work != "ingest" and ws.db.champion(ws.use_case.name) is None:
        return Turn(work, as_of, since, "No model serves yet.")
    return Turn(work, as_of, since, _resting(runs, as_of, now) if patient else "")


@contextmanager
def taking_turn(
    ws: Workspace, work: Work, now: datetime, *, patient: bool = True, wait: bool = False
) -> Iterator[Turn]:
    """The turn that this work has now, held and recorded while the body does it; nothing is recorded when it is not
    due. With `wait`, another process that is at it is waited for, ten minutes at most.

    Raises `BusyError` when another process is at it.
    """
    with _held(ws, work, wait=wait):
        turn = next_turn(ws, work, now, patient=patient)
        if not turn.due or turn.as_of is None:
            yield turn
            return
        with ws.run(_kind(work), turn.as_of) as detail:
            yield turn
            detail.update(since=turn.since and turn.since.isoformat())


def stretch(ws: Workspace, turn: Turn) -> tuple[datetime, datetime] | None:
    """The prediction instants [from, until) that a scheduled scoring is for: since the last one, or for a monitoring
    window when there was none, but never from before the first champion; None when that leaves nothing."""
    if turn.as_of is None:
        return None
    first = ws.db.champions(ws.use_case.name)[0][0]
    start = max(turn.since or turn.as_of - ws.use_case.monitor.window, first)
    return (start, turn.as_of) if start < turn.as_of else None


@contextmanager
def _held(ws: Workspace, work: Work, *, wait: bool) -> Iterator[None]:
    deadline = time.monotonic() + (_PATIENCE_S if wait else 0.0)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(ws.db.lease(f"{_kind(work)} {ws.use_case.name}"))
                break
            except BusyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL_S)
        yield


def _resting(runs: Sequence[RunRow], as_of: datetime, now: datetime) -> str:
    failed = next((run for run in runs if run.state == "failed" and run.as_of >= as_of), None)
    if failed is None or failed.ended_at is None or now - failed.ended_at >= PAUSE:
        return ""
    return f"It failed at {failed.ended_at:%H:%M} UTC and is tried again {PAUSE.seconds // 60} minutes later."


def _kind(work: Work) -> str:
    """The kind of its runs in the database; what it does is recorded as its own kind besides."""
    return f"scheduled {work}"
