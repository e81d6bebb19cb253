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
from millrace.db import ModelRow
from millrace.settings import Settings
from pipelines.workspace import Workspace
from serving.measure import measure
from training.job import Trained, train
from training.promote import Judged, Outcome, settle

_ASKED_AGAIN = 300
"""Rows of the hold-out that a gate asks for online: 0.6 s for the flights' 30 features of 8 views."""


@dataclass(frozen=True, slots=True)
class TrainingDone:
    """What one training came to, as the command line and the replay tell it."""

    as_of: datetime
    rows: int
    unlabelled: int
    parity: Parity
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
            "parity": {name: value for name, value in self.parity.as_dict().items() if name != "first"},
            "candidates": [_line(judged) for judged in self.outcome.judged],
        }


def train_and_gate(
    ws: Workspace, *, as_of: datetime, why: str = "", seed: int = 0, progress: Callable[[str], None] | None = None
) -> TrainingDone:
    """Train every candidate on what was known at `as_of`, measure each on the path that will serve it, let the best
    one that passes its gate serve, and record the verdict either way."""
    with ws.run("train", as_of) as detail:
        policy = ws.use_case.training
        apply(ws.use_case, ws.settings)
        plan = read_plan(ws.use_case, open_store(ws.use_case, ws.settings))
        rows = training_set(ws.use_case, ws.settings, ws.lake, since=as_of - policy.history, until=as_of, as_of=as_of)
        trained = train(ws.use_case, ws.settings, rows, plan, as_of=as_of, seed=seed, progress=progress)
        costs = _measure_all(ws.settings, trained)
        same = _ask_again(ws, plan, trained, seed)
        outcome = settle(ws.use_case, ws.settings, ws.db, trained, costs, parity=same, as_of=as_of, why=why, seed=seed)
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


def _measure_all(settings: Settings, trained: Trained) -> dict[str, dict[str, float]]:
    """The cost of each candidate's staged bundle, in a process of its own."""
    sample = trained.sample()
    costs = {}
    for model in trained.models:
        cost = measure(model.bundle.folder, settings, rows=sample)
        costs[model.candidate] = {name: getattr(cost, name) for name in ("p50_ms", "p99_ms", "memory_mb", "bundle_mb")}
    return costs


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
    model = judged.model
    return {
        "candidate": model.candidate + (" (baseline)" if model.baseline else ""),
        "engine": model.engine,
        **{name: round(value, 4) for name, value in model.quality.metrics().items()},
        **{name: round(value, 3) for name, value in judged.cost.items()},
        "seconds": round(model.seconds, 1),
        "passed": judged.verdict.passed,
        "against": " ".join(judged.verdict.against),
    }


def _champion(row: ModelRow, action: str) -> dict[str, Any]:
    return {"use_case": row.use_case, "action": action, "version": row.version, "candidate": row.candidate}
