"""When a challenger replaces the champion: the comparison on the same rows, and the rule.

Better beyond chance; or the champion itself breaks the budget; or equal and clearly cheaper; or better with less
certainty than a champion that is old and was not challenged for long; or made alike from newer rows, and not shown to
be worse. The reasons, the figures behind each constant and what was given up: docs/decisions/0003-champion-rule.md,
0012-gates.md and 0027-policies.md. Knows nothing of where scores and costs come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millrace.budget import COST_METRICS, Budget
from millrace.intervals import Z95
from millrace.quality import Difference, Quality, row_log_losses
from training.gate.costs import gains, over
from training.gate.limits import check_limits
from training.gate.resampling import draws, group_positions
from training.gate.verdict import Check, LimitResult, plain
from training.gate.words import METRIC_WORDS

Floats = NDArray[np.float64]

EQUAL_MARGIN = 0.005
"""Nats by which the mean row log loss may be worse, at the end of its interval, and still count as equal."""
EQUAL_SHARE = 0.02
"""The same as a share of the champion's log loss: the smaller of the two counts, for outcomes that are rare or easy."""
CHANCE_A_WEEK = 0.04
"""The chance of promoting a model that is no better, for each week without a training against an old champion. With
0.05 the share of weeks with such a promotion would be 4.8 %, too near to the 5 % that are promised."""
NEWS = 0.05
"""The share of what a challenger learned from that its champion has not seen, from which on the newer one is presumed
to be the better one."""
HARM_SHARE = 0.02
"""The share of the champion's log loss that a challenger so presumed must not be shown to be worse by: the interval
begins below it, and the mean lies below twice of it, for hold-outs that show little."""
_WEEK = timedelta(days=7)
_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class ChampionOnSameRows:
    """The champion on the challenger's hold-out.

    `difference` is the mean of (challenger's − champion's) row log loss, with its interval; negative is better. `age`
    is how long before the challenger it was trained, `max_age` from when on it counts as old, `unchallenged` how long
    ago the last training was, whatever came of it; None: not known, and then its age changes nothing. `news` is which
    share of what the challenger learned from is newer than all that the champion did, if both are of one candidate;
    None: they are not, or it is not known, and then nothing speaks for the newer one. `cost` is what
    serving it costs, by the budget's names, measured beside the challenger's; without it no challenger can be cheaper.
    `incomparable` says why the champion cannot predict these rows, when it cannot; quality and difference are None
    then.
    """

    version: int
    age: timedelta
    max_age: timedelta
    quality: Quality | None = None
    difference: Difference | None = None
    incomparable: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    unchallenged: timedelta | None = None
    news: float | None = None


@dataclass(frozen=True, slots=True)
class Compared(Difference):
    """A challenger's difference to the champion with the one-sided p-value of "no better"; like the interval, it holds
    for all challengers of the comparison together."""

    p_value: float


def compare_with_champion(
    y: ArrayLike,
    challengers: Mapping[str, ArrayLike],
    champion: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """The differences in row log loss of several challengers to one champion, with simultaneous 95 % intervals.

    `y` (n,) are the outcomes, all scores (n,) or (n, K); `groups` (n,) names the rows that are resampled whole, such as
    those of one hour (fewer than ten: rows). The intervals are as wide as it takes for all of them together to hold in
    95 % of the cases: by the studentized maximum over the challengers, from one bootstrap that resamples all of them
    alike (Romano & Wolf, Econometrica 2005), so variants of one network cost hardly more than one model. Each answer is
    a `Compared`. No rows give NaN.
    """
    base = row_log_losses(y, champion)
    if not len(base) or not challengers:
        return {name: Compared(np.nan, np.nan, np.nan, 0, 0, np.nan) for name in challengers}
    differences = np.column_stack([row_log_losses(y, scores) - base for scores in challengers.values()])
    position = group_positions(len(base), groups)
    counts: Floats = np.bincount(position).astype(np.float64)
    sums = np.column_stack([np.bincount(position, weights=one) for one in differences.T])
    random = np.random.default_rng(seed)
    drawn = np.concatenate([one @ sums / (one @ counts)[:, None] for one in draws(len(counts), resamples, random)])
    found = _simultaneous(differences.mean(axis=0), drawn, len(base), len(counts))
    return dict(zip(challengers, found, strict=True))


def _simultaneous(means: Floats, drawn: Floats, rows: int, groups: int) -> list[Compared]:
    """Means (models,) with intervals and p-values that hold together, from their bootstrap draws (resamples, models).

    What does not vary at all, such as a model beside itself, has an interval of no width and a p-value of 1.
    """
    errors = drawn.std(axis=0)
    scaled = np.divide(drawn - means, errors, out=np.zeros_like(drawn), where=errors > 0)
    wide, best = float(np.quantile(np.abs(scaled).max(axis=1), 0.95)), scaled.min(axis=1)
    return [
        Compared(
            float(mean),
            float(mean - wide * error),
            float(mean + wide * error),
            rows=rows,
            groups=groups,
            p_value=float(np.mean(best <= mean / error)) if error else 1.0,
        )
        for mean, error in zip(means, errors, strict=True)
    ]


def check_champion(champion: ChampionOnSameRows, budget: Budget, cost: Mapping[str, float]) -> Check:
    """The rule, for a challenger of this cost."""
    difference = champion.difference
    if difference is None:
        reason = f"Champion version {champion.version} cannot be compared: {champion.incomparable}"
        return Check("champion", passed=True, reason=reason, figures=_figures(champion, cost, "incomparable"))
    what = _compared_in_words(champion, difference)
    for rule, why in (
        ("better", "better beyond chance" if difference.high < 0 else ""),
        ("over budget", _over_budget(champion, budget)),
        ("cheaper", _cheaper(champion, difference, budget, cost)),
        ("old", _better_than_old(champion, difference)),
        ("newer", _newer(champion, difference)),
    ):
        if why:
            return Check("champion", passed=True, reason=f"{what}: {why}.", figures=_figures(champion, cost, rule))
    why = "that may be chance" if difference.mean < 0 else "not better" if difference.rows else "nothing is known"
    return Check("champion", passed=False, reason=f"{what}: {why}.", figures=_figures(champion, cost, ""))


def equal_margin(champion: ChampionOnSameRows) -> float:
    """The nats by which a challenger may be worse, at the end of its interval, and still be equal to this champion."""
    loss = champion.quality.log_loss if champion.quality is not None else np.inf
    return float(min(EQUAL_MARGIN, EQUAL_SHARE * loss))


def _compared_in_words(champion: ChampionOnSameRows, difference: Difference) -> str:
    if not difference.rows:
        return f"There are no rows to compare it on with champion version {champion.version}"
    better = f"{abs(difference.mean):.4f} {'lower' if difference.mean < 0 else 'higher'} than"
    return (
        f"On the same {difference.rows:,} rows its log loss is {better if difference.mean else 'equal to'} that of "
        f"champion version {champion.version} (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"
    )


def _over_budget(champion: ChampionOnSameRows, budget: Budget) -> str:
    """What the champion breaks of the budget beyond noise, or nothing: such a champion keeps nobody out."""
    if champion.quality is None:
        return ""
    limits = check_limits(budget, champion.quality, champion.cost)
    broken = [METRIC_WORDS[limit.metric][0] for limit in limits if not limit.passed and _clearly_missed(limit)]
    return f"that champion breaks the budget itself ({', '.join(broken)})" if broken else ""


def _clearly_missed(limit: LimitResult) -> bool:
    """A cost beyond noise, a quality beyond its interval; what was not measured or has no interval never is."""
    if limit.measured is None:
        return False
    if limit.metric in COST_METRICS:
        return limit.sense == "<=" and over(limit.metric, limit.measured, limit.bound)
    if limit.interval is None:
        return False
    low, high = limit.interval
    return high < limit.bound if limit.sense == ">=" else low > limit.bound


def _cheaper(champion: ChampionOnSameRows, difference: Difference, budget: Budget, cost: Mapping[str, float]) -> str:
    """In what the challenger is clearly cheaper, if it is equal and no cost that matters is higher; else nothing."""
    margin = equal_margin(champion)
    if not difference.high < margin:
        return ""
    limited = [limit.metric for limit in budget.limits if limit.metric in COST_METRICS]
    found = gains(cost, champion.cost, limited)
    return f"equal within {margin:.4f} nats, and cheaper ({'; '.join(found)})" if found else ""


def _better_than_old(champion: ChampionOnSameRows, difference: Difference) -> str:
    p = p_value(difference)
    if champion.unchallenged is None or champion.age < champion.max_age or not p <= chance_allowed(champion):
        return ""
    return (
        f"better with {100 * (1 - p):.0f} % confidence, which suffices against a champion that is {champion.age.days} "
        f"days old, when the last training was {champion.unchallenged.days} days ago"
    )


def _newer(champion: ChampionOnSameRows, difference: Difference) -> str:
    """That a successor made alike knows more, if nothing shows that it is worse; else nothing."""
    if champion.news is None or champion.quality is None or not champion.news >= NEWS:
        return ""
    margin = HARM_SHARE * champion.quality.log_loss
    if not (difference.low < margin and difference.mean < 2 * margin):
        return ""
    return (
        f"{champion.news:.0%} of what it learned from is newer than all that this champion has seen, and it is not "
        f"shown to be worse by {margin:.4f}"
    )


def chance_allowed(champion: ChampionOnSameRows) -> float:
    """The p-value that suffices against this champion when it is old: `CHANCE_A_WEEK` for each week unchallenged."""
    weeks = (champion.unchallenged or timedelta(0)) / _WEEK
    return min(max(CHANCE_A_WEEK * weeks, 0.0), 0.5)


def p_value(difference: Difference) -> float:
    """The one-sided p-value of "no better": the comparison's, or the normal approximation to the interval."""
    if isinstance(difference, Compared):
        return difference.p_value
    error = (difference.high - difference.low) / (2 * Z95)
    return NormalDist().cdf(difference.mean / error) if error > 0 else 1.0


def _figures(champion: ChampionOnSameRows, cost: Mapping[str, float], rule: str) -> dict[str, object]:
    found = {
        "version": champion.version,
        "rule": rule,
        "age_days": champion.age.days,
        "max_age_days": champion.max_age.days,
        "unchallenged_days": champion.unchallenged.days if champion.unchallenged is not None else None,
        "p_value": p_value(champion.difference) if champion.difference is not None else None,
        "chance_allowed": chance_allowed(champion),
        "difference": champion.difference,
        "equal_margin": equal_margin(champion),
        "news": champion.news,
        "log_loss": champion.quality.log_loss if champion.quality is not None else None,
        "cost": {name: [value, champion.cost[name]] for name, value in cost.items() if name in champion.cost},
        "incomparable": champion.incomparable,
    }
    figures: dict[str, object] = plain(found)
    return figures
