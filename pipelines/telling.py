"""Who is told of what the flows did: failures while they last, wrong data, decisions to page, and what serves now.

People are told by alerts, Prefect by events. Telling never fails a flow nor holds it up for longer than a setting says:
what cannot be sent waits in the outbox, and every later flow sends what is due. This module knows what is worth
telling; how it is told is `monitoring.alerts`' and `pipelines.events`' business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from millrace.errors import BusyError, MillraceError, first_line
from monitoring.alerts import Notice, Policy, raise_alert, resolve_alert
from monitoring.decide import Decision
from monitoring.delivery import deliver
from pipelines.events import emit
from pipelines.watching import Watched
from pipelines.workspace import Workspace

_log = logging.getLogger(__name__)
_DATA = "wrong data"
_ALARM = "alarm"
_PAGED = "retraining does not help"


@contextmanager
def told(ws: Workspace, work: str) -> Iterator[None]:
    """People hear when the body (`work`: ingest, train, …) fails, and when it succeeds after that.

    That another process is at it already is no failure. What is due in the outbox is sent at the end either way.
    """
    cause = f"{work} failed"
    try:
        yield
    except BusyError:
        raise
    except Exception as error:  # of any kind: it is told, and raised again
        said = str(error) if isinstance(error, MillraceError) else first_line(error)
        tell(ws, Notice(ws.use_case.name, cause, "warning", f"The {work} failed", said))
        emit(ws.use_case.name, "failed", work=work, error=said)
        raise
    else:
        settle(ws, cause)
    finally:
        send(ws)


def tell_watched(ws: Workspace, seen: Watched) -> None:
    """What a monitoring pass saw and led to: events of both, and alerts as far as somebody has to act.

    That is data that cannot be trusted, an alarm, and a page. A retrain, or one that is held back because it is not
    its time, is nobody's trouble.
    """
    name, decision, window = ws.use_case.name, seen.decision, seen.result.window
    about = {"from": window.start, "until": window.end, "as_of": window.as_of, "version": seen.result.version}
    emit(name, "decision", action=decision.action, reason=decision.reason, **about)
    if seen.result.drift.drifted:
        emit(name, "drift", columns=list(seen.result.drift.drifted), **about)
    for cause, notice in _notices(name, decision).items():
        tell(ws, notice) if notice else settle(ws, cause)


def tell_trained(ws: Workspace, outcome: Mapping[str, Any]) -> None:
    """Whether the new model serves; `outcome` as a training's `as_dict` gives it."""
    name, did = ws.use_case.name, "serves now" if outcome["promoted"] else "was refused"
    cause, title = f"version {outcome['version']}", f"Version {outcome['version']} {did}"
    tell(ws, Notice(name, cause, "info", title, outcome["reason"], lasts=False))
    told_of = ("as_of", "version", "promoted", "reason")
    emit(name, "trained", **{field: outcome[field] for field in told_of})


def _notices(name: str, decision: Decision) -> dict[str, Notice | None]:
    """Of each cause that a decision can be about, what to tell now, or None when it is over."""
    action: str = decision.action
    reason, evidence = decision.reason, decision.evidence
    wrong = action in {"alert", "hold_back"} and bool(evidence.get("data_problems") or not evidence.get("rows", 1))
    found: dict[str, Notice | None] = {_DATA: None, _ALARM: None}
    if wrong:
        found[_DATA] = Notice(name, _DATA, "warning", "The window's data cannot be trusted", reason)
    elif action == "alert":
        found[_ALARM] = Notice(name, _ALARM, decision.severity, "The window alarms", reason)
    if action == "page":
        found[_PAGED] = Notice(name, _PAGED, "critical", "Retraining does not help: look at it", reason)
    elif action == "retrain":  # a person has let it go on
        found[_PAGED] = None
    return found


def tell(ws: Workspace, notice: Notice) -> None:
    """Raise it; when that fails the log says so, and the flow goes on."""
    _unless_it_fails(
        lambda: raise_alert(ws.db.alerts, Policy.of(ws.settings), notice, now=datetime.now(UTC)), notice.cause
    )


def settle(ws: Workspace, cause: str) -> None:
    """Resolve it, if it was raised."""
    _unless_it_fails(
        lambda: resolve_alert(ws.db.alerts, Policy.of(ws.settings), ws.use_case.name, cause, now=datetime.now(UTC)),
        cause,
    )


def send(ws: Workspace) -> None:
    """Send what is due, within the time that the settings allow."""
    _unless_it_fails(lambda: deliver(ws.settings, ws.db, due=datetime.now(UTC)), "sending")


def _unless_it_fails(act: Callable[[], object], what: str) -> None:
    try:
        act()
    except Exception as error:  # whatever it is, the flow's own work is what counts
        _log.warning("An alert (%s) could not be dealt with: %s", what, first_line(error))
