"""Which of two models is cheaper or dearer to serve, beyond what differs from one measurement to the next.

Knows the names of costs and how repeatable each is; nothing of models, budgets or of how costs are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite, nan

from training.gate.words import METRIC_WORDS

CHEAPER = {"p99_ms": 2.0, "memory_mb": 1.5}
"""Cheaper is what takes the other's figure divided by this, in one of the two, and is beyond the floor of `NOISE`."""
NOISE = {
    "p50_ms": (1.3, 0.05),
    "p99_ms": (1.5, 0.1),
    "p50_ms_100": (1.3, 0.1),
    "p99_ms_100": (1.5, 0.2),
    "memory_mb": (1.1, 2.0),
    "bundle_mb": (1.1, 0.1),
    "cold_start_ms": (1.5, 20.0),
    "joules_per_1000": (1.3, 0.0),
}
"""By which factor, and by how much in its unit, a cost must be above another to be more than noise: both."""


def dearer(metric: str, ours: float, theirs: float) -> bool:
    """Whether our cost is above theirs by more than noise."""
    factor, floor = NOISE[metric]
    return ours > factor * theirs and ours - theirs > floor


def over(metric: str, measured: float, bound: float) -> bool:
    """Whether a cost is above a bound by more than the factor of its noise."""
    return measured > NOISE[metric][0] * bound


def gains(ours: Mapping[str, float], theirs: Mapping[str, float], watched: Iterable[str]) -> tuple[str, ...]:
    """In what we are clearly cheaper, in words; nothing when a cost of `watched` is dearer, or known of one only.

    What was measured of neither is left out. The 99th percentile swings with whatever else the machine does (0.02 to
    0.07 ms for the same bundle within a minute), the median does not: a gain in the first counts when the second
    bears it out.
    """
    for metric in dict.fromkeys([*CHEAPER, *watched]):
        our, their = _figure(ours, metric), _figure(theirs, metric)
        if isfinite(our) != isfinite(their) or (isfinite(our) and dearer(metric, our, their)):
            return ()
    return tuple(
        f"{METRIC_WORDS[metric][0]} {ours[metric]:.3g} against {theirs[metric]:.3g}{METRIC_WORDS[metric][1]}"
        for metric in CHEAPER
        if _clearly_below(metric, ours, theirs)
    )


def _clearly_below(metric: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    our, their = _figure(ours, metric), _figure(theirs, metric)
    if not (our * CHEAPER[metric] <= their and their - our > NOISE[metric][1]):  # NaN is not below
        return False
    return metric != "p99_ms" or NOISE["p50_ms"][0] * _figure(ours, "p50_ms") < _figure(theirs, "p50_ms")


def _figure(cost: Mapping[str, float], metric: str) -> float:
    return cost.get(metric, nan)
