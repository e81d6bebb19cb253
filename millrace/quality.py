"""How good predicted probabilities are: the one implementation that gates, monitoring and experiments share.

Everything takes outcomes `y` (n,) of 0 and 1 and probabilities `p` (n,) of outcome 1, rows in the same order; or, where
it says so, positions of K classes in `y` and a probability of each in `p` (n, K). This module needs numpy only and
knows nothing of models, frames or stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millrace.budget import QUALITY_METRICS
from millrace.class_quality import Codes, brier_rows, checked_classes, of_outcome, top_label
from millrace.intervals import Z95, area_with_interval, midranks, share_interval

Floats = NDArray[np.float64]

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP] before the log: scores are float32, whose resolution near 1 this is."""
CALIBRATION_BINS = 10


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one set of predictions. With one outcome only, `roc_auc` and its interval are NaN; with no rows
    everything is. Intervals are at 95 %: DeLong for the area, the normal approximation of the mean for the loss,
    Wilson's for the accuracy, which takes a probability of 0.5 for outcome 1.

    With K classes `positives` are the rows whose most probable class happened, `accuracy` their share and
    `calibration_error` that of its probability; `roc_auc` is the mean over classes of one against the rest, without an
    interval; `brier` is summed over the classes.
    """

    rows: int
    positives: int
    roc_auc: float
    roc_auc_interval: tuple[float, float]
    log_loss: float
    log_loss_interval: tuple[float, float]
    brier: float
    calibration_error: float
    accuracy: float = nan
    accuracy_interval: tuple[float, float] = (nan, nan)

    def metrics(self) -> dict[str, float]:
        """The figures that a budget may limit, by their budget names."""
        return {name: getattr(self, name) for name in QUALITY_METRICS}

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
    """Every figure of `Quality` at once; of K classes when `p` is (n, K)."""
    outcomes, scores = _checked(y, p)
    losses = _row_log_losses(outcomes, scores)
    if scores.ndim == 2:
        codes = outcomes.astype(np.int64)
        right, top = top_label(codes, scores)
        area, low, high = _mean_area(codes, scores), nan, nan
        briers, error, positives = brier_rows(codes, scores), calibration_error(right, top), int(right.sum())
    else:
        right = ((scores >= 0.5) == (outcomes == 1)).astype(np.float64)
        area, low, high = area_with_interval(outcomes, scores)
        briers, error, positives = (scores - outcomes) ** 2, calibration_error(outcomes, scores), int(outcomes.sum())
    return Quality(
        rows=len(outcomes),
        positives=positives,
        roc_auc=area,
        roc_auc_interval=(low, high),
        log_loss=_mean(losses),
        log_loss_interval=_mean_interval(losses),
        brier=_mean(briers),
        calibration_error=error,
        accuracy=_mean(right),
        accuracy_interval=share_interval(int(right.sum()), len(right)),
    )


def roc_auc(y: ArrayLike, p: ArrayLike) -> float:
    """Area under the ROC curve = P(score of a positive > score of a negative) + half of P(equal), from midranks.

    NaN when a class is absent.
    """
    outcomes, scores = _checked_vectors(y, p)
    positives = int(outcomes.sum())
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return nan
    rank_sum = float(midranks(scores)[outcomes == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_auc_interval(y: ArrayLike, p: ArrayLike) -> tuple[float, float]:
    """The 95 % interval of `roc_auc`; (NaN, NaN) with fewer than two rows of a class.

    The variance is DeLong's (DeLong, DeLong & Clarke-Pearson, Biometrics 1988) in the O(n log n) form of Sun & Xu (IEEE
    Signal Processing Letters 2014); the interval is built on the logit scale (Pepe 2003), so it stays within 0 and 1.
    """
    return area_with_interval(*_checked_vectors(y, p))[1:]


def log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Mean negative log likelihood in nats, probabilities clipped by `CLIP`; NaN with no rows. Takes K classes."""
    return _mean(row_log_losses(y, p))


def row_log_losses(y: ArrayLike, p: ArrayLike) -> Floats:
    """The log loss of each row (n,), in nats, probabilities clipped by `CLIP`. Takes K classes."""
    return _row_log_losses(*_checked(y, p))


def brier(y: ArrayLike, p: ArrayLike) -> float:
    """Mean squared difference of probability and outcome; NaN with no rows."""
    outcomes, scores = _checked_vectors(y, p)
    return _mean((scores - outcomes) ** 2)


def calibration_error(y: ArrayLike, p: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean of |mean score - share of positives| over bins, weighted by their rows.

    Bins hold equal numbers of rows (Nixon et al., CVPR workshops 2019): with equal widths nearly all rows of a rare
    outcome fall into one. Equal scores share a bin. NaN with no rows. Chance alone gives a calibrated model about
    0.8 sqrt(bins q (1 - q) / n), where q is the share of positives.
    """
    outcomes, scores = _checked_vectors(y, p)
    if not len(outcomes):
        return nan
    edges = np.quantile(scores, np.arange(1, bins) / bins)
    position = np.searchsorted(edges, scores, side="right")
    gaps = np.bincount(position, weights=scores - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(outcomes))


def slice_quality(
    y: ArrayLike, p: ArrayLike, columns: Mapping[str, Sequence[Any] | NDArray[Any]], *, min_rows: int = 100
) -> tuple[SliceQuality, ...]:
    """The quality of each value of each column that has at least `min_rows` rows, columns as given, values sorted.

    Takes K classes.
    """
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
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("p must hold probabilities between 0 and 1, none missing")
    if scores.ndim == 2:
        checked_classes(outcomes, scores)
        return outcomes, scores
    return _checked_vectors(outcomes, scores)


def _checked_vectors(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    outcomes, scores = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if outcomes.ndim != 1 or outcomes.shape != scores.shape:
        raise ValueError(f"y and p must be vectors of one length, not of shapes {outcomes.shape} and {scores.shape}")
    if not ((outcomes == 0) | (outcomes == 1)).all():
        raise ValueError("y must hold 0 and 1 only")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("p must hold probabilities between 0 and 1, none missing")
    return outcomes, scores


def _mean_area(codes: Codes, scores: Floats) -> float:
    """The mean over the classes that both happened and did not of the area of one against the rest; NaN of none."""
    areas = [roc_auc(codes == one, scores[:, one]) for one in range(scores.shape[1])]
    known = [area for area in areas if not isnan(area)]
    return sum(known) / len(known) if known else nan


def _row_log_losses(outcomes: Floats, scores: Floats) -> Floats:
    if scores.ndim == 2:
        right = of_outcome(outcomes.astype(np.int64), scores)
    else:
        right = np.where(outcomes == 1, scores, 1 - scores)
    losses: Floats = -np.log(np.clip(right, CLIP, 1 - CLIP))
    return losses


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else nan


def _mean_interval(values: Floats) -> tuple[float, float]:
    if len(values) < 2:
        return nan, nan
    half = Z95 * float(values.std(ddof=1)) / sqrt(len(values))
    return _mean(values) - half, _mean(values) + half


def _without_nan(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_with_nan(item) for item in value)
    return nan if value is None else value
