"""The watching stage: one monitoring pass over a window, its record, and what an action on it came to.

The monitoring room sees frames only; here they are fetched from the lake and the champion's bundle, and what was seen
and decided is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from features.training_set import labels
from millrace import registry
from millrace.db import WindowRow
from millrace.errors import NoDataError
from millrace.outcomes import posted, unknown
from millrace.prediction_log import TABLE
from millrace.quality import Quality
from millrace.source import EVENT_TIME
from monitoring.decide import Decision
from monitoring.report import write_report
from monitoring.window import Champion, Window, WindowResult
from monitoring.window import watch as look
from pipelines.models import TrainingDone
from pipelines.scoring import SHADOW, bundle_of
from pipelines.served import ship_served
from pipelines.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Watched:
    """A monitoring pass and what was done about it: `action` is the decision's, or what the training came to."""

    result: WindowResult
    action: str
    reason: str
    report: Path | None = None

    @property
    def decision(self) -> Decision:
        """What the pass led to decide."""
        return self.result.decision

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what a person asks first."""
        seen = self.result
        return {
            "from": seen.window.start,
            "to": seen.window.end,
            "version": seen.version,
            "rows": seen.rows,
            "labelled": seen.live.labelled,
            **_metrics(seen),
            "drifted": list(seen.drift.drifted),
            "decision": self.action,
            "reason": self.reason,
            "report": self.report,
        }


def watch(ws: Workspace, *, start: datetime, end: datetime, as_of: datetime, report: bool = False) -> Watched:
    """Look at the predictions for instants in [start, end) with what is known at `as_of`, decide, and record both.

    `report` also renders Evidently's page of the window (seconds). Raises `NoChampionError` when nothing serves, and
    `NoDataError` when nothing was predicted there.
    """
    with ws.run("monitor", as_of) as detail:
        champion = registry.champion(ws.db, ws.use_case.name)
        window = Window(start, end, as_of)
        reference = bundle_of(ws, champion.version).reference()
        predictions = _predictions(ws, window)
        result = look(
            ws.use_case,
            window,
            Champion(champion.version, champion.as_of, Quality.from_dict(champion.quality)),
            reference=reference,
            predictions=predictions,
            labels=labels(ws.use_case, ws.lake, as_of=as_of),
            posted=posted(ws.use_case.label, ws.lake, as_of=as_of),
            static=_within(ws, SHADOW, window) if ws.lake.exists(SHADOW) else None,
            retrained_at=_retrained_before(ws, as_of),
        )
        seen = Watched(result, result.decision.action, result.decision.reason)
        if report:
            seen = replace(seen, report=_report(ws, seen, reference, predictions))
        _record(ws, seen)
        detail.update(rows=result.rows, action=seen.action, unknown_labels=unknown(ws.lake, as_of=as_of))
    return seen


def acted(ws: Workspace, seen: Watched, done: TrainingDone) -> Watched:
    """The pass with what the training that it called for came to, recorded in its window."""
    outcome = "promoted" if done.outcome.promoted else "refused"
    settled = replace(seen, action=outcome, reason=done.outcome.reason)  # which begins with the decision's own
    ws.db.add_window(_row(ws, settled))
    return settled


def restate(ws: Workspace, *, as_of: datetime) -> None:
    """Measure every window again with the labels known at `as_of`; what was first seen stays beside it."""
    ship_served(ws)
    known = labels(ws.use_case, ws.lake, as_of=as_of)
    from_clients = posted(ws.use_case.label, ws.lake, as_of=as_of)
    for row in ws.db.windows(ws.use_case.name):
        champion = ws.db.model(ws.use_case.name, row.version)
        if champion is None:
            continue
        window = Window(row.start, row.end, as_of)
        frame = _within(ws, TABLE, window)
        result = look(
            ws.use_case,
            window,
            Champion(champion.version, champion.as_of, Quality.from_dict(champion.quality)),
            reference=frame.head(0),
            predictions=frame,
            labels=known,
            posted=from_clients,
            static=_within(ws, SHADOW, window) if ws.lake.exists(SHADOW) else None,
        )
        first = row.metrics.get("first_seen", dict(row.metrics))
        row.metrics = {**_metrics(result), "first_seen": first}
        row.labelled = result.live.labelled
        ws.db.add_window(row)


def _predictions(ws: Workspace, window: Window) -> pl.DataFrame:
    """The window's predictions, online and batch, after what the servers have finished writing is in the lake."""
    ship_served(ws)
    found = _within(ws, TABLE, window) if ws.lake.exists(TABLE) else pl.DataFrame()
    if found.is_empty():
        raise NoDataError(
            f"Nothing of {ws.use_case.name} was predicted from {window.start:%Y-%m-%d %H:%M} to "
            f"{window.end:%Y-%m-%d %H:%M} UTC.",
            looked="The prediction log has no row for an instant in that window.",
            todo=f"Score it first: millrace score {ws.use_case.name} --from {window.start:%Y-%m-%d} "
            f"--until {window.end:%Y-%m-%d}.",
        )
    return found


def _within(ws: Workspace, table: str, window: Window) -> pl.DataFrame:
    inside = pl.col(EVENT_TIME).is_between(window.start, window.end, closed="left")
    return ws.lake.scan(table).filter(inside).collect()


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
    )
    return written.html


def _retrained_before(ws: Workspace, as_of: datetime) -> list[datetime]:
    """When earlier retrains were decided; the one of an earlier pass over this very window does not hold it back."""
    decisions = ws.db.decisions(ws.use_case.name)
    return [decision.as_of for decision in decisions if decision.action == "retrain" and decision.as_of < as_of]


def _record(ws: Workspace, seen: Watched) -> None:
    """The window's row, and a decision unless an earlier pass has recorded the same."""
    ws.db.add_window(_row(ws, seen))
    known = {(decision.as_of, decision.action) for decision in ws.db.decisions(ws.use_case.name)}
    if seen.action != "nothing" and (seen.result.window.as_of, seen.action) not in known:
        ws.db.add_decision(
            ws.use_case.name,
            as_of=seen.result.window.as_of,
            action=seen.action,
            reason=seen.reason,
            evidence=seen.decision.evidence,
            version=seen.result.version,
        )


def _row(ws: Workspace, seen: Watched) -> WindowRow:
    result = seen.result
    return WindowRow(
        use_case=ws.use_case.name,
        start=result.window.start,
        end=result.window.end,
        version=result.version,
        rows=result.rows,
        labelled=result.live.labelled,
        action=seen.action,
        reason=seen.reason,
        created_at=datetime.now(UTC),
        metrics=_metrics(result),
        drifted=list(result.drift.drifted),
    )


def _metrics(result: WindowResult) -> dict[str, Any]:
    """The figures that are compared week by week; None where there are no labels, or no static model.

    Of K classes area and loss are of each model's own event, so the static one's are None: they compare by accuracy.
    """
    found: dict[str, Any] = {}
    classes = result.evidence.top_label
    for name, performance in (("live", result.live), ("static", result.static)):
        quality = performance.quality.to_dict() if performance and performance.quality else {}
        event = {} if classes and name == "static" else quality
        found |= {f"{metric}_{name}": event.get(metric) for metric in ("roc_auc", "log_loss")}
        found |= {f"accuracy_{name}": quality.get("accuracy")} if classes else {}
    return found
