"""The flow that a schedule starts, and what the command line does in its place where there is no server.

When work is due is `pipelines.schedules`' business; the flows of the work itself are `pipelines.flows`'.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from millrace.errors import BusyError, MillraceError, first_line
from pipelines.flows import Outcome, ingest_flow, monitor_flow, run_flow, score_flow
from pipelines.schedules import WORKS, Turn, Work, next_turn, stretch, taking_turn
from pipelines.telling import send
from pipelines.workspace import Workspace, open_workspace


@flow(name="scheduled", validate_parameters=False)
def scheduled_flow(
    use_case: str,
    work: Work,
    at: datetime | None = None,
    hand_over: bool = False,
    patient: bool = True,
    home: Path | None = None,
) -> Outcome:
    """One piece of scheduled work as of its time, once for all the times that were missed, and before it what it needs.

    What fails of that is recorded and told, and the work itself is done with what there is. It is what was due `at` a
    moment (default: now). `hand_over` leaves a retrain to the server's automation, `patient` leaves work that has just
    failed its pause.
    """
    with open_workspace(use_case, home) as ws:
        now = at or _moment()
        for earlier in WORKS[: WORKS.index(work)]:
            with suppress(Exception), taking_turn(ws, earlier, now, patient=patient, wait=True) as turn:
                _do(use_case, ws, turn, hand_over, home)
        try:
            with taking_turn(ws, work, now, patient=patient) as turn:
                return turn.as_dict() | {"outcome": _do(use_case, ws, turn, hand_over, home)}
        except BusyError as error:
            return Turn(work, None, why_not=f"Another process is at it. {error.looked}").as_dict()


def run_due(use_case: str, now: datetime, *, patient: bool = True) -> list[dict[str, Any]]:
    """Do what is due of a use case at `now` (UTC), one after the other; a line for each piece of work.

    What fails, the platform's database included, does not keep the rest from being done: its line has the error.
    Alerts that wait are sent, too.
    """
    lines = [_line(use_case, work, now, patient=patient) for work in WORKS]
    with suppress(Exception), open_workspace(use_case) as ws:  # what is wrong with the platform is in the lines
        send(ws)
    return lines


def _line(use_case: str, work: Work, now: datetime, *, patient: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"use_case": Path(use_case).name, "work": work, "as_of": None, "did": "nothing", "why": ""}
    try:
        with open_workspace(use_case) as ws:
            turn = next_turn(ws, work, now, patient=patient)
        line |= {"as_of": turn.as_of, "why": turn.why_not}
        if turn.due:
            done = run_flow(scheduled_flow, use_case=use_case, work=work, at=now, patient=patient)
            line |= {"did": "done"} if done["due"] else {"why": done["why_not"]}
    except Exception as error:  # it is recorded and told; the next piece of work is due all the same
        line |= {"did": "failed", "why": str(error) if isinstance(error, MillraceError) else first_line(error)}
    return line


def _moment() -> datetime:
    """Now, or the flow run's scheduled time where a worker has started it a little early."""
    now, scheduled = datetime.now(UTC), flow_run.scheduled_start_time
    return max(now, scheduled) if isinstance(scheduled, datetime) else now


def _do(use_case: str, ws: Workspace, turn: Turn, hand_over: bool, home: Path | None) -> Outcome | None:
    """The work of a turn, when it is due; its stages are tasks of the flow run around it."""
    if not turn.due or turn.as_of is None:
        return None
    if turn.work == "ingest":
        return ingest_flow.fn(use_case, turn.as_of, home=home)
    if turn.work == "monitor":
        return monitor_flow.fn(use_case, turn.as_of, hand_over=hand_over, home=home)
    found = stretch(ws, turn)
    return score_flow.fn(use_case, *found, turn.as_of, home=home) if found else None
