"""Figures with their intervals: a share, and the area under the ROC curve. For `millrace.quality`, which checks."""

from __future__ import annotations

from math import exp, log, nan, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
"""The normal deviate of a 95 % interval."""


def share_interval(successes: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, JASA 1927); (NaN, NaN) of no rows."""
    if not rows:
        return nan, nan
    share, z2 = successes / rows, Z95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def midranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks


def area_with_interval(outcomes: Floats, scores: Floats) -> tuple[float, float, float]:
    """The area and its 95 % interval, as `millrace.quality.roc_auc_interval` describes it; NaN where there is none."""
    positive = outcomes == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return nan, nan, nan
    ranks = midranks(scores)
    of_positives = (ranks[positive] - midranks(scores[positive])) / n  # share of negatives below each positive
    of_negatives = 1 - (ranks[~positive] - midranks(scores[~positive])) / m  # share of positives above each negative
    area = float(of_positives.mean())
    if m < 2 or n < 2:
        return area, nan, nan
    error = sqrt(float(of_positives.var(ddof=1)) / m + float(of_negatives.var(ddof=1)) / n)
    if area in (0.0, 1.0) or error == 0:
        return area, area, area
    centre, half = log(area / (1 - area)), Z95 * error / (area * (1 - area))
    return area, _expit(centre - half), _expit(centre + half)


def _expit(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else 1 - 1 / (1 + exp(x))
