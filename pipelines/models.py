"""The model stages: train, measure, ask again online, gate, promote; promote and roll back by hand.

Here rooms meet that do not know each other: serving measures what a bundle costs, features compares what it was trained
on with what it will be served, training judges both. A version that is promoted by hand is not asked again: its verdict
holds what its training found, and one that was refused needs a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from features.parity import Parity, replayed, sampled, training_parity
from features.plan import ReadPlan, read_plan
from features.repo import apply, open_store
from features.training_set import historical_features, training_set
from millrace import registry
from millrace.bundle import Bundle
from millrace.db import ModelRow
from millrace.settings import Settings
from pipelines.served import ship_served
from pipelines.workspace import Workspace
from serving.measure import measure
from training.evidence import Cost, Measure
from training.job import Trained, train
from training.leftovers import clear_leftovers
from training.options import TrainOptions
from training.promote import Judged, Outcome, settle
from training.tracking import Tracking
from training.warm_start import Parent, open_parent

_TOLD = ("p99_ms", "p99_ms_100", "memory_mb", "bundle_mb")
"""What a line of the summary has of a cost; the rest is in the verdict."""
_ASKED_AGAIN = 300
"""Rows of the hold-out that a gate asks for online: 0.6 s for the flights' 30 features of 8 views."""


@dataclass(frozen=True, slots=True)
class TrainingDone:
    """What one training came to, as the command line and the replay tell it."""

    as_of: datetime
    rows: int
    unlabelled: int
    parity: Parity | None
    outcome: Outcome

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "as_of": self.as_of,
            "rows": self.rows,
            "unlabelled": self.unlabelled,
            "version": self.outcome.version.version,
            "promoted": self.outcome.promoted,
            "reason": self.outcome.reason,
            "parity": self.parity and {k: value for k, value in self.parity.as_dict().items() if k != "first"},
            "candidates": [_line(judged) for judged in self.outcome.judged],
        }


def train_and_gate(
    ws: Workspace,
    *,
    as_of: datetime,
    why: str = "",
    options: TrainOptions = TrainOptions(),  # noqa: B008  # frozen, and so shared safely
    progress: Callable[[str], None] | None = None,
) -> TrainingDone:
    """Train every candidate on what was known at `as_of`, measure each on the path that will serve it, let the best
    one that passes its gate serve, and record the verdict either way.

    Raises `BusyError` when another process trains this use case, and whatever stands in the way of a training.
    """
    with ws.db.lease(f"train {ws.use_case.name}"), ws.run("train", as_of) as detail:
        policy = ws.use_case.training
        tracking = Tracking(ws.settings, ws.use_case.name)
        clear_leftovers(ws.settings, ws.use_case.name, tracking)
        plan = _read_plan(ws)
        ship_served(ws)
        rows = training_set(ws.use_case, ws.settings, ws.lake, since=as_of - policy.history, until=as_of, as_of=as_of)
        trained = train(
            ws.use_case,
            ws.settings,
            rows,
            plan,
            as_of=as_of,
            options=options,
            parent=_parent(ws, options),
            tracking=tracking,
            progress=progress,
        )
        same = _ask_again(ws, plan, trained, options.seed) if plan else None
        outcome = settle(
            ws.use_case,
            ws.settings,
            ws.db,
            trained,
            measuring(ws.settings, trained, progress),
            parity=same,
            as_of=as_of,
            why=why,
            options=options,
        )
        detail.update(version=outcome.version.version, promoted=outcome.promoted, rows=rows.frame.height)
    return TrainingDone(as_of, rows.frame.height, rows.unlabelled, same, outcome)


def parity(ws: Workspace, *, rows: int, as_of: datetime, seed: int = 0) -> Parity:
    """Ask again online for a seeded sample of the rows that a training at `as_of` would learn from."""
    with ws.run("parity", as_of) as detail:
        apply(ws.use_case, ws.settings)
        found = training_parity(ws.use_case, ws.settings, ws.lake, rows=rows, as_of=as_of, seed=seed)
        detail.update(rows=found.rows, values=found.values, mismatches=found.mismatches)
    return found


def promote(ws: Workspace, version: int, *, as_of: datetime, override: str = "") -> dict[str, Any]:
    """Let a registered version serve; `GateError` when it failed its gate and `override` gives no reason."""
    row = registry.promote(
        ws.settings, ws.db, ws.use_case.name, version, as_of=as_of, reason="Promoted by hand.", override=override
    )
    return _champion(row, "promoted")


def rollback(ws: Workspace, *, as_of: datetime) -> dict[str, Any]:
    """Let the champion before this one serve again."""
    row = registry.rollback(ws.settings, ws.db, ws.use_case.name, as_of=as_of, reason="Rolled back by hand.")
    return _champion(row, "rolled back")


def _read_plan(ws: Workspace) -> ReadPlan | None:
    """How the features are read online; None when they come with the request."""
    if ws.use_case.feature_repo is None:
        return None
    apply(ws.use_case, ws.settings)
    return read_plan(ws.use_case, open_store(ws.use_case, ws.settings))


def _parent(ws: Workspace, options: TrainOptions) -> Parent | None:
    """The registered version whose weights a training begins with."""
    if options.parent is None:
        return None
    return open_parent(ws.settings, ws.use_case, registry.registered(ws.db, ws.use_case.name, options.parent))


def measuring(settings: Settings, trained: Trained, progress: Callable[[str], None] | None) -> Measure:
    """What a bundle costs, in a process of its own, asked with rows of the hold-out."""
    sample = trained.sample()

    def measured(bundle: Bundle) -> Cost:
        cost = measure(bundle.folder, settings, rows=sample, limit_s=settings.measure_seconds)
        if progress is not None:
            told = f"p99 {cost.p99_ms:.3g} ms, {cost.memory_mb:.1f} MB, {cost.calls:,} calls"
            progress(f"{bundle.contract.candidate}: {told}")
        calls = {"p99_ms": cost.calls, "p99_ms_100": cost.calls_100}
        return Cost(cost.figures(), cost.notes(), calls, cost.scores)

    return measured


def _ask_again(ws: Workspace, plan: ReadPlan, trained: Trained, seed: int) -> Parity:
    """Hold-out rows asked for online, against the values that the models were measured on.

    Where those differ, against the values as they are joined now: a late row may have come since.
    """
    rows = sampled(trained.holdout, _ASKED_AGAIN, seed=seed)
    found = replayed(ws.use_case, ws.settings, plan, rows)
    if found.holds:
        return found
    return replayed(ws.use_case, ws.settings, plan, historical_features(ws.use_case, ws.settings, rows))


def _line(judged: Judged) -> dict[str, Any]:
    """A model in the summary; what was measured besides, and why in words, is in its verdict."""
    model, cost, verdict = judged.model, judged.cost.figures, judged.verdict
    missed = [limit.metric for limit in verdict.limits if not (limit.passed or limit.waived)]
    missed += [check.name for check in verdict.checks if not check.passed]
    return {
        "candidate": model.candidate + (" (baseline)" if model.baseline else ""),
        "engine": model.engine,
        **{name: round(value, 4) for name, value in model.quality.metrics().items() if name != "brier"},
        **{name: round(cost[name], 3) for name in _TOLD if name in cost},
        "seconds": round(model.seconds, 1),
        "passed": verdict.passed,
        "missed": ", ".join(missed),
    }


def _champion(row: ModelRow, action: str) -> dict[str, Any]:
    return {"use_case": row.use_case, "action": action, "version": row.version, "candidate": row.candidate}
