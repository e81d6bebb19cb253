"""The watching stage: one monitoring pass over a window, its record, and what an action on it came to.

The monitoring room sees frames only; here they are fetched from the lake and the champion's bundle, the platform's own
past is added to the evidence, and what was seen and decided is stored. One process at a time watches a use case, and a
pass over a window that was watched as of the same moment with the same result adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from millrace import registry
from millrace.bundle import Bundle
from millrace.db import DecisionRow, ModelRow
from monitoring.decide import Decision, decide
from monitoring.report import Shelf, write_report
from monitoring.window import Window, WindowResult
from monitoring.window import watch as look
from pipelines import effects
from pipelines.besides import beside
from pipelines.models import TrainingDone
from pipelines.restating import restate, restate_late
from pipelines.scoring import bundle_of
from pipelines.served import ship_served
from pipelines.windows import Outcomes, metrics, predictions_in, shadow_in, watched_model, window_row
from pipelines.workspace import Workspace

__all__ = ["Watched", "acted", "restate", "watch"]


@dataclass(frozen=True, slots=True)
class Watched:
    """A monitoring pass and what was done about it: `action` is the decision's, or what the training came to."""

    result: WindowResult
    action: str
    reason: str
    report: Path | None = None
    decision_id: int = 0
    repeated: bool = False
    """Whether an earlier pass over this window, as of this moment, had decided already; its decision stands."""
    restated: int = 0
    """Earlier windows that were measured again with the labels that came since."""

    @property
    def decision(self) -> Decision:
        """What the pass led to decide."""
        return self.result.decision

    @property
    def due(self) -> bool:
        """Whether a training is to start now: one was decided, and none has come of it yet nor is under way."""
        return self.action == "retrain" and self.result.evidence.training is None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what a person asks first."""
        seen = self.result
        return {
            "from": seen.window.start,
            "to": seen.window.end,
            "version": seen.version,
            "rows": seen.rows,
            "labelled": seen.live.labelled,
            **seen.told(),
            **metrics(seen),
            "drifted": list(seen.drift.drifted),
            "decision": self.action,
            "severity": self.decision.severity,
            "reason": self.reason,
            "decision_id": self.decision_id,
            "repeated": self.repeated,
            "restated": self.restated,
            "report": self.report,
        }


def watch(ws: Workspace, *, start: datetime, end: datetime, as_of: datetime, report: bool = False) -> Watched:
    """Look at the predictions for instants in [start, end) with what is known at `as_of`, decide, and record both.

    Before, it brings up to date what earlier retrains gained, and restates earlier windows of which more is known now.
    `report` also renders Evidently's page of the window (seconds). Raises `NoChampionError` when nothing serves,
    `NoDataError` when nothing was ever predicted, `BusyError` while another process watches this use case.
    """
    window = Window(start, end, as_of)
    with ws.db.lease(f"monitor {ws.use_case.name}"), ws.run("monitor", as_of) as detail:
        earlier = ws.db.decided(ws.use_case.name, start, end, as_of)
        champion = _champion(ws, earlier)
        ship_served(ws)
        predictions, outcomes = predictions_in(ws, window), Outcomes.read(ws, as_of)
        effects.measure(ws, outcomes)
        restated = restate_late(ws, start, outcomes)
        bundle = bundle_of(ws, champion.version)
        reference = bundle.reference()
        result = _look(ws, window, champion, bundle, reference, predictions, outcomes)
        seen = replace(_record(ws, result, earlier), restated=restated)
        if report:
            seen = replace(seen, report=_report(ws, seen, reference, predictions))
        detail.update(_told(ws, seen, outcomes))
    return seen


def acted(ws: Workspace, seen: Watched, done: TrainingDone) -> Watched:
    """The pass with what the training that it called for came to, recorded in its window and its decision."""
    outcome = effects.record(ws, seen.decision_id, done)
    return replace(seen, action=outcome["result"], reason=outcome["reason"])  # which begins with the decision's own


def _look(
    ws: Workspace,
    window: Window,
    champion: ModelRow,
    bundle: Bundle,
    reference: pl.DataFrame,
    predictions: pl.DataFrame,
    outcomes: Outcomes,
) -> WindowResult:
    """What the monitoring room sees, decided with the platform's own past in the evidence."""
    decisions = ws.db.decisions(ws.use_case.name, *effects.PAST)
    result = look(
        ws.use_case,
        window,
        replace(watched_model(champion), contract=bundle.contract),
        reference=reference,
        predictions=predictions,
        labels=outcomes.labels,
        posted=outcomes.posted,
        static=shadow_in(ws, window),
        retrained_at=[row.as_of for row in decisions if row.action == "retrain" and _before(row, window)],
        beside=beside(ws, window, bundle),
    )
    brought = effects.settled(decisions, window.as_of)
    evidence = replace(
        result.evidence,
        effects=brought,
        paged=effects.paged(decisions, brought, window.as_of),
        training=_training(ws),
    )
    return replace(result, evidence=evidence, decision=decide(ws.use_case.retrain, evidence))


def _before(row: DecisionRow, window: Window) -> bool:
    """Whether a decision was taken before this pass; one over this very window does not hold it back."""
    same = (row.window_start, row.window_end) == (window.start, window.end)
    return row.as_of < window.as_of or (row.as_of == window.as_of and not same)


def _training(ws: Workspace) -> int | None:
    """The run that trains this use case now, in whichever process."""
    return next((run.id for run in ws.db.running() if (run.use_case, run.kind) == (ws.use_case.name, "train")), None)


def _champion(ws: Workspace, earlier: DecisionRow | None) -> ModelRow:
    """The model that serves, or that served when an earlier pass over the same window decided as of this moment."""
    if earlier is not None and earlier.version is not None:
        return registry.registered(ws.db, ws.use_case.name, earlier.version)
    return registry.champion(ws.db, ws.use_case.name)


def _record(ws: Workspace, result: WindowResult, earlier: DecisionRow | None) -> Watched:
    """The window's row and its decision, unless an earlier pass as of this moment has decided already.

    That one stands when it was acted upon or just is, or rests on the same evidence.
    """
    if earlier is not None and _stands(earlier, result):
        result = replace(result, decision=_stored(earlier))
        action, reason = earlier.outcome.get("result", earlier.action), earlier.outcome.get("reason", earlier.reason)
        seen = Watched(result, action, reason, decision_id=earlier.id, repeated=True)
    else:
        decision, window = result.decision, result.window
        number = ws.db.add_decision(
            ws.use_case.name,
            as_of=window.as_of,
            action=decision.action,
            reason=decision.reason,
            evidence=decision.evidence,
            version=result.version,
            severity=decision.severity,
            window=(window.start, window.end),
        )
        seen = Watched(result, decision.action, decision.reason, decision_id=number)
    ws.db.add_window(window_row(ws, result, action=seen.action, reason=seen.reason))
    return seen


def _stands(earlier: DecisionRow, result: WindowResult) -> bool:
    acting = earlier.action == "retrain" and result.evidence.training is not None
    return bool(earlier.outcome) or acting or earlier.evidence == result.decision.evidence


def _stored(row: DecisionRow) -> Decision:
    return Decision(row.action, row.reason, (row.reason,), row.evidence, row.severity)  # type: ignore[arg-type]  # ours


def _told(ws: Workspace, seen: Watched, outcomes: Outcomes) -> dict[str, object]:
    """The pass as its run's detail: what was found, and what was odd about the labels."""
    live = seen.result.live
    return {
        "rows": seen.result.rows,
        "action": seen.action,
        "decision": seen.decision_id,
        "repeated": seen.repeated,
        "restated": seen.restated,
        "unknown_labels": outcomes.unknown(ws),
        "disputed_labels": outcomes.disputed,
        "corrected_labels": live.corrected,
        "contradictory_labels": live.contradictory,
    }


def _report(ws: Workspace, seen: Watched, reference: pl.DataFrame, predictions: pl.DataFrame) -> Path | None:
    """Evidently's page of the window; None when too few rows left no column to compare, which the pass itself says."""
    if all(column.effect is None for column in seen.result.drift.columns):
        return None
    window = seen.result.window
    name = f"{ws.use_case.name}-{window.start:%Y%m%dT%H%M}-{window.end:%Y%m%dT%H%M}"
    written = write_report(
        reference,
        predictions,
        seen.result.drift,
        ws.settings.folder("reports"),
        name=name,
        monitor=ws.use_case.monitor,
        at=window.end,
        shelf=Shelf(ws.settings.folder("evidently"), ws.use_case.name),
    )
    return written.html
