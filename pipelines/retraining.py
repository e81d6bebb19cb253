"""The retrain that a decision called for: done once, whoever asks for it and however often.

An event may come twice, hours late, or while somebody trains by hand. So whoever wants to act on a decision names it,
and here is asked whether it still stands: our database knows what was trained since. It knows nothing of Prefect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millrace.db import DecisionRow
from millrace.errors import MillraceError
from pipelines import effects
from pipelines.models import TrainingDone, train_and_gate
from pipelines.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Retrained:
    """What became of a decision: a training, or the `reason` why there was none."""

    decision: int
    reason: str
    training: TrainingDone | None = None

    @property
    def action(self) -> str:
        """In a word: `promoted`, `refused`, or `not done`."""
        if self.training is None:
            return "not done"
        return "promoted" if self.training.outcome.promoted else "refused"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        trained = self.training.as_dict() if self.training else {}
        return {"decision_id": self.decision, "action": self.action, **trained, "reason": self.reason}


def retrain(ws: Workspace, decision: int) -> Retrained:
    """Train as of the decision's own moment and let the gate judge, unless it does not stand any more.

    Raises `MillraceError` when this use case has no such decision, or it was not to retrain, and `BusyError` when
    another process trains.
    """
    row = _decision(ws, decision)
    with ws.db.lease(f"retrain {ws.use_case.name}"):
        against = _against(ws, row)
        if against:
            return Retrained(decision, against)
        done = train_and_gate(ws, as_of=row.as_of, why=row.reason)
    effects.record(ws, decision, done)
    return Retrained(decision, done.outcome.reason, done)


def outstanding(ws: Workspace, as_of: datetime) -> DecisionRow | None:
    """The newest decision to retrain by this moment, when nobody has even begun to act on it.

    It may be this pass's own, or an earlier one whose event was lost, or whose process ended before it came to train.
    """
    rows = [row for row in _retrains(ws) if row.as_of <= as_of]
    begun = any(run.as_of >= rows[-1].as_of for run in ws.db.runs(ws.use_case.name, "train")) if rows else True
    return None if begun else rows[-1]


def _decision(ws: Workspace, decision: int) -> DecisionRow:
    found = next((row for row in _retrains(ws) if row.id == decision), None)
    if found is None:
        raise MillraceError(
            f"{ws.use_case.name} has no decision {decision} to retrain.",
            looked="The decisions of this platform's database.",
            todo=f"See where it stands: millrace status {ws.use_case.name}.",
        )
    return found


def _retrains(ws: Workspace) -> Sequence[DecisionRow]:
    return ws.db.decisions(ws.use_case.name, "retrain")


def _against(ws: Workspace, decision: DecisionRow) -> str:
    """Why the decision does not stand any more; empty when it does.

    A training as of its moment or later has done what it asked for, and the cool-down counts from that one; a later
    decision to retrain has taken its place.
    """
    for run in ws.db.runs(ws.use_case.name, "train"):
        if run.state == "done" and run.as_of >= decision.as_of:
            return f"It is done: there was a training as of {run.as_of:%Y-%m-%d %H:%M} UTC."
    newest = _retrains(ws)[-1]
    if newest.as_of > decision.as_of:
        return f"Decision {newest.id} of {newest.as_of:%Y-%m-%d %H:%M} UTC has taken its place."
    return ""
