"""From trained models to a champion: compare, judge, choose, register, promote or refuse.

The costs come from whoever measured the staged bundles along the serving path; the rules are `training.gate`'s, the
registry does what was decided. This module only brings them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.parity import Parity
from millrace.bundle import open_bundle
from millrace.db import Database, ModelRow
from millrace.engine import open_engine
from millrace.errors import BundleError, FeatureError
from millrace.keys import public_key
from millrace.quality import paired_difference, quality, row_log_losses
from millrace.registry import promote, register
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from training.gate import ChampionOnSameRows, Verdict, judge
from training.job import Trained, TrainedModel, discard
from training.tracking import record_verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A trained model with its measured cost and its verdict."""

    model: TrainedModel
    cost: Mapping[str, float]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one training came to: each model's verdict (the baseline first), the version that was registered, whether
    it serves now, and the reason in words."""

    judged: tuple[Judged, ...]
    version: ModelRow
    promoted: bool
    reason: str


def settle(
    use_case: UseCase,
    settings: Settings,
    db: Database,
    trained: Trained,
    costs: Mapping[str, Mapping[str, float]],
    *,
    parity: Parity | None,
    as_of: datetime,
    why: str = "",
    seed: int = 0,
) -> Outcome:
    """Judge every model, register the best one, and let it serve if it passed; else the champion stays untouched.

    `costs` holds the measured cost (`p50_ms`, `p99_ms`, `memory_mb`, `bundle_mb`) by candidate, `parity` what asking
    for hold-out rows online came to; `why` says what the training was for. The best is the one of lowest hold-out log
    loss among those that passed, or among all candidates when none did. A refused training is a decision in the
    database with the reasons.
    """
    champion = db.champion(use_case.name)
    judged = judge_all(use_case, settings, trained, costs, parity=parity, champion=champion, as_of=as_of, seed=seed)
    best = choose(judged)
    for one in judged:
        record_verdict(settings, one.model.run_id, verdict=one.verdict.to_dict(), cost=one.cost)
    row = register(
        settings,
        db,
        best.model.bundle,
        run_id=best.model.run_id,
        as_of=as_of,
        status="challenger" if best.verdict.passed else "refused",
        quality=best.model.quality.to_dict(),
        cost=best.cost,
        verdict=best.verdict.to_dict(),
    )
    discard([one.model for one in judged if one is not best])
    reason = _in_words(best, why)
    if best.verdict.passed:
        row = promote(settings, db, use_case.name, row.version, as_of=as_of, reason=reason)
    else:
        evidence = {"verdict": best.verdict.to_dict(), "cost": dict(best.cost)}
        db.add_decision(
            use_case.name, as_of=as_of, action="refused", reason=reason, evidence=evidence, version=row.version
        )
    return Outcome(tuple(judged), row, best.verdict.passed, reason)


def judge_all(
    use_case: UseCase,
    settings: Settings,
    trained: Trained,
    costs: Mapping[str, Mapping[str, float]],
    *,
    parity: Parity | None,
    champion: ModelRow | None,
    as_of: datetime,
    seed: int = 0,
) -> list[Judged]:
    """The verdict of each model, in the order of training; the baseline is judged by budget and parity alone."""
    baseline = next((model.quality for model in trained.models if model.baseline), None)
    against = _Champion.open(champion, settings, trained) if champion is not None else None
    judged = []
    for model in trained.models:
        cost = dict(costs.get(model.candidate, {}))
        compared = None
        if against is not None and not model.baseline:
            compared = against.compare(trained, model, as_of=as_of, use_case=use_case, seed=seed)
        other = None if model.baseline else baseline
        verdict = judge(
            use_case.budget, quality=model.quality, cost=cost, parity=parity, baseline=other, champion=compared
        )
        judged.append(Judged(model, cost, verdict))
    return judged


def choose(judged: Sequence[Judged]) -> Judged:
    """The model of lowest hold-out log loss among those that passed; among all when none did; never the baseline.

    Equal losses: the faster at the 99th percentile.
    """
    candidates = [one for one in judged if not one.model.baseline]
    passed = [one for one in candidates if one.verdict.passed]
    return min(passed or candidates, key=lambda one: (one.model.quality.log_loss, one.cost.get("p99_ms", np.inf)))


@dataclass(frozen=True, slots=True)
class _Champion:
    """The champion and its scores on the challengers' hold-out, or why it has none."""

    row: ModelRow
    scores: NDArray[np.float64] | None
    incomparable: str = ""

    @classmethod
    def open(cls, row: ModelRow, settings: Settings, trained: Trained) -> _Champion:
        try:
            bundle = open_bundle(Path(row.bundle), public_key=public_key(settings))
            matrix = bundle.contract.encode_frame(trained.holdout)
            return cls(row, open_engine(bundle, threads=settings.threads).predict(matrix))
        except (BundleError, FeatureError) as error:  # a champion that cannot predict must not keep others out
            return cls(row, None, error.what)

    def compare(
        self, trained: Trained, model: TrainedModel, *, as_of: datetime, use_case: UseCase, seed: int
    ) -> ChampionOnSameRows:
        """Hours are resampled whole: flights, payments or clicks of one hour share what happened in it."""
        age, limit = as_of - self.row.as_of, use_case.retrain.max_age
        if self.scores is None:
            return ChampionOnSameRows(self.row.version, age, limit, incomparable=self.incomparable)
        losses = row_log_losses(trained.labels, model.scores) - row_log_losses(trained.labels, self.scores)
        hours = trained.holdout.select(pl.col(EVENT_TIME).dt.truncate("1h").dt.epoch("s")).to_series().to_numpy()
        difference = paired_difference(losses, hours, seed=seed)
        return ChampionOnSameRows(self.row.version, age, limit, quality(trained.labels, self.scores), difference)


def _in_words(best: Judged, why: str) -> str:
    """The outcome in one paragraph: what the training was for, what became of which candidate, and why."""
    verdict = best.verdict
    purpose = f"{why.rstrip('.')}. " if why else ""
    if not verdict.passed:
        return f"{purpose}{best.model.candidate} is refused. {' '.join(verdict.against)}"
    others = " ".join(verdict.reasons[len(verdict.limits) :])  # what stands after the budget's limits
    kept = (
        f"It keeps all {len(verdict.limits)} limits of its budget." if verdict.limits else "It has no budget to keep."
    )
    return f"{purpose}{best.model.candidate} is promoted. {kept} {others}".strip()
