"""From trained models to a champion: judge, choose, register, promote or refuse.

The evidence is `training.evidence`'s, the rules are `training.gate`'s, the registry does what was decided. This module
only brings them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf

from features.parity import Parity
from millrace.budget import COST_METRICS, Budget
from millrace.db import Database, ModelRow
from millrace.registry import promote, register
from millrace.settings import Settings
from millrace.usecase import UseCase
from training.evidence import Champion, Evidence, Judged, Measure
from training.gate import Verdict
from training.job import Trained, discard
from training.options import TrainOptions
from training.pareto import Point, picture
from training.tracking import record_verdicts

__all__ = ["Judged", "Outcome", "choose", "settle"]


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
    measure: Measure,
    *,
    parity: Parity | None,
    as_of: datetime,
    why: str = "",
    options: TrainOptions = TrainOptions(),  # noqa: B008  # frozen, and so shared safely
) -> Outcome:
    """Judge every model, register the chosen one, and let it serve if it passed; else the champion stays untouched.

    `parity` is what asking for hold-out rows online came to (None: they are not read from a store); `why` says what the
    training was for. A refused training is a decision in the database with the reasons.
    """
    row = db.champion(use_case.name)
    champion = Champion.open(row, settings, trained.holdout) if row is not None else None
    budget = use_case.budget.with_limits(options.budget)
    before = max((one.as_of for one in db.models(use_case.name)), default=None)
    evidence = Evidence(use_case, settings, trained, budget, parity, champion, measure, as_of, options.seed, before)
    judged = evidence.judged()
    best = choose(judged, budget)
    _record(settings, use_case, judged, best, budget, _points(judged, best, evidence))
    row = register(
        settings,
        db,
        best.model.bundle,
        run_id=best.model.run_id,
        as_of=as_of,
        status="challenger" if best.verdict.passed else "refused",
        quality=best.model.quality.to_dict(),
        cost=best.cost.figures,
        verdict=best.verdict.to_dict(),
    )
    discard([one.model for one in judged if one is not best])
    reason = _in_words(judged, best, why)
    if best.verdict.passed:
        row = promote(settings, db, use_case.name, row.version, as_of=as_of, reason=reason)
    else:
        found = {"verdict": best.verdict.to_dict(), "cost": dict(best.cost.figures)}
        db.add_decision(
            use_case.name, as_of=as_of, action="refused", reason=reason, evidence=found, version=row.version
        )
    return Outcome(tuple(judged), row, best.verdict.passed, reason)


def choose(judged: Sequence[Judged], budget: Budget) -> Judged:
    """The best of those that passed, among all when none did; never the baseline.

    The best has the lowest hold-out log loss; where the budget prefers the cheapest, it takes the lowest sum of shares
    of the limits on cost. Equal ones: the faster at the 99th percentile.
    """
    candidates = [one for one in judged if not one.model.baseline]
    passed = [one for one in candidates if one.verdict.passed]
    cheapest = budget.prefer == "cheapest" and passed

    def rank(one: Judged) -> tuple[float, float]:
        worth = _share(one, budget) if cheapest else one.model.quality.log_loss
        return worth, one.cost.figures.get("p99_ms", inf)

    return min(passed or candidates, key=rank)


def _share(one: Judged, budget: Budget) -> float:
    """The sum of what the model takes of each limit on cost; without such limits, its p99 and memory as they are."""
    bounds = {limit.metric: limit.bound for limit in budget.limits if limit.metric in COST_METRICS and limit.bound > 0}
    bounds = bounds or {"p99_ms": 1.0, "memory_mb": 1.0}
    return sum(one.cost.figures.get(metric, 0.0) / bound for metric, bound in bounds.items())


def _points(judged: Sequence[Judged], best: Judged, evidence: Evidence) -> list[Point]:
    """Every model of the training, and the champion that stays where none replaces it."""
    points = [
        Point(
            one.model.candidate,
            one.model.quality.log_loss,
            one.model.quality.accuracy,
            one.cost.figures,
            one.verdict.passed,
            champion=one is best and one.verdict.passed,
        )
        for one in judged
    ]
    stays = None if best.verdict.passed else evidence.standing()
    if stays is not None:
        row, found, cost = stays
        name = f"champion {row.version} ({row.candidate})"
        points.append(Point(name, found.log_loss, found.accuracy, cost.figures, passed=True, champion=True))
    return points


def _record(
    settings: Settings,
    use_case: UseCase,
    judged: Sequence[Judged],
    best: Judged,
    budget: Budget,
    points: Sequence[Point],
) -> None:
    """Costs and verdicts into the models' runs, the Pareto picture of all of them into the chosen one's."""
    record_verdicts(
        settings,
        use_case.name,
        {one.model.run_id: (one.verdict.to_dict(), one.cost.figures) for one in judged},
        best=best.model.run_id,
        pareto=picture(points, budget, title=f"{use_case.name}: log loss against cost"),
        points=[point.to_dict() for point in points],
    )


def _in_words(judged: Sequence[Judged], best: Judged, why: str) -> str:
    """The outcome in one paragraph: what the training was for, what became of which candidate, and why."""
    purpose = f"{why.rstrip('.')}. " if why else ""
    name, verdict = best.model.candidate, best.verdict
    if verdict.passed:
        return f"{purpose}{name} is promoted. {_for(verdict)}".strip()
    others = [_refused_too(one, verdict) for one in judged if one is not best and not one.model.baseline]
    return " ".join([f"{purpose}{name} is refused. {' '.join(verdict.against)}", *others]).strip()


def _refused_too(one: Judged, told: Verdict) -> str:
    """What speaks against another model first, unless that is what was told already."""
    missed = one.verdict.against[0]
    return f"{one.model.candidate} is refused, too{'.' if missed in told.against else f': {missed}'}"


def _for(verdict: Verdict) -> str:
    kept = (
        f"It keeps all {len(verdict.limits)} limits of its budget." if verdict.limits else "It has no budget to keep."
    )
    return " ".join([kept, *(check.reason for check in verdict.checks)])
