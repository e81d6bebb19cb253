"""How good predicted probabilities are: the one implementation that gates, monitoring and experiments share.

Everything takes outcomes `y` (n,) of 0 and 1 and probabilities `p` (n,) of outcome 1, rows in the same order. This
module needs numpy only and knows nothing of models, frames or stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, isnan, log, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP] before the log: scores are float32, whose resolution near 1 this is."""
CALIBRATION_BINS = 10
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one set of predictions. With one class only, `roc_auc` and its interval are NaN; with no rows
    everything is. Intervals are at 95 %: DeLong for the area, the normal approximation of the mean for the loss."""

    rows: int
    positives: int
    roc_auc: float
    roc_auc_interval: tuple[float, float]
    log_loss: float
    log_loss_interval: tuple[float, float]
    brier: float
    calibration_error: float

    def metrics(self) -> dict[str, float]:
        """The four figures that a budget may limit, by their budget names."""
        names = ("roc_auc", "log_loss", "brier", "calibration_error")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None, since JSON has no NaN."""
        return {name: _without_nan(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Quality:
        """The inverse of `to_dict`."""
        return cls(**{name: _with_nan(value) for name, value in stored.items()})


@dataclass(frozen=True, slots=True)
class SliceQuality:
    """The quality of the rows whose `column` has this value; a missing value is the slice `(missing)`."""

    column: str
    value: str
    quality: Quality


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of paired differences with its 95 % bootstrap interval, over `rows` rows in `groups` groups."""

    mean: float
    low: float
    high: float
    rows: int
    groups: int


def quality(y: ArrayLike, p: ArrayLike) -> Quality:
    """Every figure of `Quality` at once."""
    outcomes, scores = _checked(y, p)
    losses = _row_log_losses(outcomes, scores)
    area, low, high = _roc_auc_with_interval(outcomes, scores)
    return Quality(
        rows=len(outcomes),
        positives=int(outcomes.sum()),
        roc_auc=area,
        roc_auc_interval=(low, high),
        log_loss=_mean(losses),
        log_loss_interval=_mean_interval(losses),
        brier=_mean((scores - outcomes) ** 2),
        calibration_error=calibration_error(outcomes, scores),
    )


def roc_auc(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the ROC curve = P(score of a positive > score of a negative) + half of P(equal), from midranks.

    NaN when a class is absent.
    """
    outcomes, scores = _checked(y, p)
    positives = int(outcomes.sum())
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return nan
    rank_sum = float(_midranks(scores)[outcomes == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_auc_interval(y: ArrayLike, p: ArrayLike) -> tuple[float, float]:
    """The 95 % interval of `roc_auc`; (NaN, NaN) with fewer than two rows of a class.

    The variance is DeLong's (DeLong, DeLong & Clarke-Pearson, Biometrics 1988) in the O(n log n) form of Sun & Xu (IEEE
    Signal Processing Letters 2014); the interval is built on the logit scale (Pepe 2003), so it stays within 0 and 1.
    """
    return _roc_auc_with_interval(*_checked(y, p))[1:]


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Mean negative log likelihood in nats, probabilities clipped by `CLIP`; NaN with no rows."""
    return _mean(row_log_losses(y, p))


def row_log_losses(y: ArrayLike, p: ArrayLike) -> Floats:
    """The log loss of each row (n,), in nats, probabilities clipped by `CLIP`."""
    return _row_log_losses(*_checked(y, p))


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference of probability and outcome; NaN with no rows."""
    outcomes, scores = _checked(y, p)
    return _mean((scores - outcomes) ** 2)


def calibration_error(y: ArrayLike, p: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean of |mean score - share of positives| over bins, weighted by their rows.

    Bins hold equal numbers of rows (Nixon et al., CVPR workshops 2019): with equal widths nearly all rows of a rare
    outcome fall into one. Equal scores share a bin. NaN with no rows. Chance alone gives a calibrated model about
    0.8 sqrt(bins q (1 - q) / n), where q is the share of positives.
    """
    outcomes, scores = _checked(y, p)
    if not len(outcomes):
        return nan
    edges = np.quantile(scores, np.arange(1, bins) / bins)
    position = np.searchsorted(edges, scores, side="right")
    gaps = np.bincount(position, weights=scores - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(outcomes))


def slice_quality(
    y: ArrayLike, p: ArrayLike, columns: Mapping[str, Sequence[Any] | NDArray[Any]], *, min_rows: int = 100
) -> tuple[SliceQuality, ...]:
    """The quality of each value of each column that has at least `min_rows` rows, columns as given, values sorted."""
    outcomes, scores = _checked(y, p)
    found = []
    for column, values in columns.items():
        text = np.array(["(missing)" if value is None else str(value) for value in values], dtype=np.str_)
        names, position = np.unique(text, return_inverse=True)
        for index in np.flatnonzero(np.bincount(position, minlength=len(names)) >= min_rows):
            rows = position == index
            found.append(SliceQuality(column, str(names[index]), quality(outcomes[rows], scores[rows])))
    return tuple(found)


def paired_difference(
    differences: ArrayLike, groups: ArrayLike | None = None, *, resamples: int = 2_000, seed: int = 0
) -> Difference:
    """The mean of paired differences (n,) with a 95 % percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    `groups` (n,) names what is resampled whole (the cluster bootstrap, Davison & Hinkley 1997, 3.8): rows of one hour
    share their weather, and resampling them singly would make the interval too narrow. Without groups, rows are
    resampled. With no rows everything is NaN.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return Difference(nan, nan, nan, 0, 0)
    position = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.asarray(np.bincount(position, weights=values), dtype=np.float64)
    counts = np.bincount(position)
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(values.mean()), float(low), float(high), len(values), len(sums))


def _resampled_means(sums: Floats, counts: NDArray[np.intp], resamples: int, random: np.random.Generator) -> Floats:
    """Means of `resamples` draws of groups with replacement; drawn in blocks so that memory stays below 16 MB."""
    size, means = len(sums), []
    block = max(1, 1_000_000 // size)
    for start in range(0, resamples, block):
        drawn = random.integers(0, size, size=(min(block, resamples - start), size))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def _checked(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    outcomes, scores = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if outcomes.ndim != 1 or outcomes.shape != scores.shape:
        raise ValueError(f"y and p must be vectors of one length, not of shapes {outcomes.shape} and {scores.shape}")
    if not ((outcomes == 0) | (outcomes == 1)).all():
        raise ValueError("y must hold 0 and 1 only")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("p must hold probabilities between 0 and 1, none missing")
    return outcomes, scores


def _midranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks


def _roc_auc_with_interval(outcomes: Floats, scores: Floats) -> tuple[float, float, float]:
    positive = outcomes == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return nan, nan, nan
    ranks = _midranks(scores)
    of_positives = (ranks[positive] - _midranks(scores[positive])) / n  # share of negatives below each positive
    of_negatives = 1 - (ranks[~positive] - _midranks(scores[~positive])) / m  # share of positives above each negative
    area = float(of_positives.mean())
    if m < 2 or n < 2:
        return area, nan, nan
    error = sqrt(float(of_positives.var(ddof=1)) / m + float(of_negatives.var(ddof=1)) / n)
    if area in (0.0, 1.0) or error == 0:
        return area, area, area
    centre, half = log(area / (1 - area)), _Z95 * error / (area * (1 - area))
    return area, _expit(centre - half), _expit(centre + half)


def _expit(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else 1 - 1 / (1 + exp(x))


def _row_log_losses(outcomes: Floats, scores: Floats) -> Floats:
    clipped = np.clip(scores, CLIP, 1 - CLIP)
    losses: Floats = -np.log(np.where(outcomes == 1, clipped, 1 - clipped))
    return losses


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else nan


def _mean_interval(values: Floats) -> tuple[float, float]:
    if len(values) < 2:
        return nan, nan
    half = _Z95 * float(values.std(ddof=1)) / sqrt(len(values))
    return _mean(values) - half, _mean(values) + half


def _without_nan(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_with_nan(item) for item in value)
    return nan if value is None else value
