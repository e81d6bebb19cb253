"""The limits of a budget, each against what was measured.

A limit is judged on the measurement itself, and the interval is told beside it: docs/decisions/0012-gates.md says why.
Knows nothing of champions or of how a figure is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite

from millrace.budget import Budget, Limit
from millrace.quality import Quality
from training.gate.verdict import LimitResult
from training.gate.words import METRIC_WORDS

LEAST_CALLS = 1_000
"""Of so many calls ten lie beyond the 99th percentile. Of fewer it is hardly more than the slowest that came by."""


def check_limits(
    budget: Budget,
    quality: Quality,
    cost: Mapping[str, float],
    *,
    calls: Mapping[str, int] | None = None,
    notes: Mapping[str, str] | None = None,
) -> tuple[LimitResult, ...]:
    """Every limit of the budget, in its order.

    What is absent, NaN or infinite was not measured: its limit is not kept, unless the budget waives the metric. A
    waiver changes nothing where there is a measurement. `calls` say how many calls a metric rests on: with fewer than
    `LEAST_CALLS` its limit is not kept either. `notes` are kept with their metrics' limits.
    """
    measured, made, why = quality.metrics() | dict(cost), calls or {}, notes or {}

    def checked(limit: Limit) -> LimitResult:
        name = limit.metric
        found = _check(limit, measured.get(name), _interval(quality, name), name in budget.waived)
        enough = found.measured is None or made.get(name, LEAST_CALLS) >= LEAST_CALLS
        return replace(found, passed=found.passed and enough, note=why.get(name, ""))

    return tuple(checked(limit) for limit in budget.limits)


def limit_in_words(limit: LimitResult) -> str:
    """The limit's sentence, with its note beside the figure or in place of one."""
    name, unit = METRIC_WORDS[limit.metric]
    bound = f"{'at least' if limit.sense == '>=' else 'at most'} {limit.bound:g}{unit}"
    why = f" ({limit.note.rstrip('.')})" if limit.note else ""
    if limit.measured is None or limit.margin is None:
        wanted = f"; the budget waives its limit of {bound}" if limit.waived else f" and must be {bound}"
        return f"{name} is unmeasured{why}{wanted}."
    interval = f" (95 % interval {limit.interval[0]:.4g} to {limit.interval[1]:.4g})" if limit.interval else ""
    value = f"{name} is {limit.measured:.4g}{unit}{interval}{why}"
    if limit.passed:
        return f"{value}, {bound} as wanted."
    if limit.margin >= 0:
        return (
            f"{value}, {bound} as wanted, but of fewer than {LEAST_CALLS:,} calls no 99th percentile is known: let "
            "measuring take longer (MILLRACE_MEASURE_SECONDS)."
        )
    return f"{value} and must be {bound}: it misses by {-limit.margin:.3g}{unit}."


def _check(limit: Limit, measured: float | None, interval: tuple[float, float] | None, waived: bool) -> LimitResult:
    if measured is None or not isfinite(measured):
        return LimitResult(limit.metric, limit.sense, limit.bound, None, None, passed=waived, waived=waived)
    measured = float(measured)
    margin = measured - limit.bound if limit.sense == ">=" else limit.bound - measured
    return LimitResult(
        limit.metric, limit.sense, limit.bound, measured, margin, limit.holds(measured), interval, waived=False
    )


def _interval(quality: Quality, metric: str) -> tuple[float, float] | None:
    low, high = getattr(quality, f"{metric}_interval", (None, None))
    return (low, high) if low is not None and high is not None and isfinite(low) and isfinite(high) else None
