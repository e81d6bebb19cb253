"""Whether a model may serve: every limit of its budget, its features online, the baseline, and the champion on the
same rows.

`judge` is a pure function of measurements; it measures nothing and knows no model, file or clock. The champion's rule
and its reasons: docs/decisions/0003-champion-rule.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from math import isnan
from typing import Any, Literal

from features.parity import Parity
from millrace.budget import Budget, Limit
from millrace.quality import Difference, Quality

_WORDS = {
    "roc_auc": ("ROC AUC", ""),
    "log_loss": ("Log loss", ""),
    "brier": ("Brier score", ""),
    "calibration_error": ("Calibration error", ""),
    "p50_ms": ("Median latency of one row", " ms"),
    "p99_ms": ("p99 latency of one row", " ms"),
    "memory_mb": ("Memory added by the model", " MB"),
    "bundle_mb": ("Size of the bundle", " MB"),
}


@dataclass(frozen=True, slots=True)
class LimitResult:
    """One limit, what was measured, and by how much it is kept (negative: missed), in the metric's unit.

    `measured` and `margin` are None when the metric was not measured; then the limit is not kept.
    """

    metric: str
    sense: Literal[">=", "<="]
    bound: float
    measured: float | None
    margin: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class ChampionOnSameRows:
    """The champion on the challenger's hold-out.

    `difference` is the mean of (challenger's − champion's) row log loss, with its interval; negative is better. `age`
    is how long before the challenger it was trained, `max_age` from when on it counts as old. `incomparable` says why
    the champion cannot predict these rows, when it cannot; quality and difference are None then.
    """

    version: int
    age: timedelta
    max_age: timedelta
    quality: Quality | None = None
    difference: Difference | None = None
    incomparable: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the model may serve and why: `reasons` are sentences, those `against` it first (none when it passed),
    then budget, parity, baseline, champion; `limits` holds every limit with its measurement."""

    passed: bool
    reasons: tuple[str, ...]
    limits: tuple[LimitResult, ...]
    against: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        lists = {"reasons": list(self.reasons), "against": list(self.against)}
        return asdict(self) | lists | {"limits": [asdict(limit) for limit in self.limits]}


def judge(
    budget: Budget,
    *,
    quality: Quality,
    cost: Mapping[str, float],
    parity: Parity | None = None,
    baseline: Quality | None = None,
    champion: ChampionOnSameRows | None = None,
) -> Verdict:
    """Judge one model by its hold-out quality and its cost (`p50_ms`, `p99_ms`, `memory_mb`, `bundle_mb`).

    `parity` is what asking for hold-out rows online came to (None: the features were not read from a store); one value
    that differs refuses the model. `baseline` is the baseline's quality on the same rows; the model must have the lower
    log loss. `champion` is None when nothing serves yet. A limit on what was not measured (absent or NaN) is not kept.
    """
    measured = quality.metrics() | dict(cost)
    limits = tuple(_check_limit(limit, measured.get(limit.metric)) for limit in budget.limits)
    found = [(limit.passed, _limit_in_words(limit)) for limit in limits]
    if parity is not None:
        found.append((parity.holds, str(parity)))
    if baseline is not None:
        found.append(_against_baseline(quality, baseline))
    if champion is not None:
        found.append(_against_champion(champion))
    found.sort(key=lambda one: one[0])
    against = tuple(reason for kept, reason in found if not kept)
    return Verdict(not against, tuple(reason for _, reason in found), limits, against)


def _check_limit(limit: Limit, measured: float | None) -> LimitResult:
    if measured is None or isnan(measured):
        return LimitResult(limit.metric, limit.sense, limit.bound, None, None, passed=False)
    margin = measured - limit.bound if limit.sense == ">=" else limit.bound - measured
    return LimitResult(limit.metric, limit.sense, limit.bound, measured, margin, limit.holds(measured))


def _limit_in_words(limit: LimitResult) -> str:
    name, unit = _WORDS[limit.metric]
    bound = f"{'at least' if limit.sense == '>=' else 'at most'} {limit.bound:g}{unit}"
    if limit.measured is None or limit.margin is None:
        return f"{name} is unmeasured and must be {bound}."
    value = f"{name} is {limit.measured:.4g}{unit}"
    if limit.passed:
        return f"{value}, {bound} as wanted."
    return f"{value} and must be {bound}: it misses by {-limit.margin:.3g}{unit}."


def _against_baseline(quality: Quality, baseline: Quality) -> tuple[bool, str]:
    better = quality.log_loss < baseline.log_loss
    verb = "beats" if better else "does not beat"
    return better, f"It {verb} the baseline: log loss {quality.log_loss:.4f} against {baseline.log_loss:.4f}."


def _against_champion(champion: ChampionOnSameRows) -> tuple[bool, str]:
    """The rule: better beyond chance; or the champion is old and the challenger's loss is no higher."""
    difference = champion.difference
    if difference is None:
        return True, f"Champion version {champion.version} cannot be compared: {champion.incomparable}"
    better = f"{abs(difference.mean):.4f} {'lower' if difference.mean < 0 else 'higher'} than"
    what = (
        f"On the same {difference.rows:,} rows its log loss is {better if difference.mean else 'equal to'} that of "
        f"champion version {champion.version} (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"
    )
    if difference.high < 0:
        return True, f"{what}: better beyond chance."
    old = champion.age >= champion.max_age
    if old and difference.mean <= 0:
        return True, f"{what}: no worse, and that champion is {champion.age.days} days old."
    return False, f"{what}: {'not better' if difference.mean >= 0 else 'that may be chance'}."
