"""Whether probabilities can be taken at their word: the calibration error against what chance gives a calibrated model.

With K classes the probability of the most probable class is looked at. Knows outcomes and scores only. The rule and the
measurements behind its constants: docs/decisions/0012-gates.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millrace.class_quality import top_label
from millrace.quality import CALIBRATION_BINS, quality
from training.gate.resampling import draws as resampled
from training.gate.resampling import group_positions
from training.gate.verdict import Check, plain

Floats = NDArray[np.float64]

FLOOR = 0.05
"""A calibration error up to this is never held against a model. The flights' boosting has 0.03 in the median week and
0.10 in the worst, where chance alone gives a calibrated model 0.02 at most: no week is like the ones before it."""
NULL_QUANTILE = 0.99
_DRAWS = 1_000
_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class CalibrationTest:
    """A model's calibration error on `rows` rows, and `null`: what a calibrated model of the same scores exceeds in 1 %
    of the cases.

    `reference` is the error of the champion or the baseline (`against`) on the same rows, `excess` the 95 % interval of
    how much larger the model's is; None without one.
    """

    rows: int
    error: float
    null: float
    against: Literal["champion", "baseline", ""] = ""
    reference: float | None = None
    excess: tuple[float, float] | None = None


def calibration_test(
    y: ArrayLike,
    p: ArrayLike,
    *,
    champion: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    draws: int = _DRAWS,
    seed: int = 0,
) -> CalibrationTest:
    """Test probabilities `p`, (n,) or (n, K), on outcomes `y` (n,).

    The null draws outcomes from the model's own probabilities `draws` times (Bröcker & Smith, Weather and Forecasting
    2007). The reference is the champion's scores, or the baseline's where there is none; the interval of the excess
    comes from resampling `groups` (n,) whole, both models alike. No rows give NaN.
    """
    random = np.random.default_rng(seed)
    own = _binned(y, p)
    rows, error = len(own.gaps), quality(y, p).calibration_error
    null = float(np.quantile(_null(own, draws, random), NULL_QUANTILE)) if rows else np.nan
    other = champion if champion is not None else baseline
    if other is None or not rows:
        return CalibrationTest(rows, error, null)
    reference = quality(y, other).calibration_error
    excess = _excess(own, _binned(y, other), groups, random)
    return CalibrationTest(rows, error, null, "champion" if champion is not None else "baseline", reference, excess)


def check_calibration(found: CalibrationTest) -> Check:
    """The rule: refused is an error that neither chance, nor `FLOOR`, nor the reference on the same rows explains."""
    beyond_chance, beyond_floor = found.error > found.null, found.error > FLOOR
    beyond_reference = found.excess is None or found.excess[0] > 0
    refused = beyond_chance and beyond_floor and beyond_reference
    told = f"Its calibration error is {found.error:.3f}"
    if found.reference is not None:
        told += f", the {found.against}'s on the same rows {found.reference:.3f}"
    if not beyond_chance:
        told += f": no more than chance gives a calibrated model ({found.null:.3f})."
    elif not beyond_floor:
        told += f": a calibrated model would have at most {found.null:.3f}, and {FLOOR:g} is allowed."
    elif refused:
        told += f": a calibrated model would have at most {found.null:.3f}, and {FLOOR:g} is the most allowed."
    else:
        told += f": above the {FLOOR:g} allowed, but no worse than the {found.against}'s beyond chance."
    return Check("calibration", not refused, told, plain(found) | {"floor": FLOOR})


@dataclass(frozen=True, slots=True)
class _Binned:
    """Rows in bins of equal size by score: each row's bin, score, and score less outcome."""

    position: NDArray[np.intp]
    scores: Floats
    gaps: Floats


def _binned(y: ArrayLike, p: ArrayLike) -> _Binned:
    """The bins of `millrace.quality.calibration_error`."""
    outcomes, scores = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if scores.ndim == 2:
        outcomes, scores = top_label(outcomes.astype(np.int64), scores)
    edges = np.quantile(scores, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS) if len(scores) else np.empty(0)
    return _Binned(np.searchsorted(edges, scores, side="right"), scores, scores - outcomes)


def _null(rows: _Binned, draws: int, random: np.random.Generator) -> Floats:
    """Calibration errors (draws,) of outcomes drawn from the scores."""
    expected = np.bincount(rows.position, weights=rows.scores, minlength=CALIBRATION_BINS)
    found = np.empty(draws)
    for place in range(draws):
        happened = random.random(len(rows.scores), dtype=np.float32) < rows.scores
        counts = np.bincount(rows.position[happened], minlength=CALIBRATION_BINS)
        found[place] = np.abs(expected - counts).sum() / len(rows.scores)
    return found


def _excess(own: _Binned, other: _Binned, groups: ArrayLike | None, random: np.random.Generator) -> tuple[float, float]:
    """The 95 % bootstrap interval of (own − other's) calibration error, bins as they are."""
    group = group_positions(len(own.gaps), groups)
    counts: Floats = np.bincount(group).astype(np.float64)
    ours, theirs = (
        np.bincount(group * CALIBRATION_BINS + one.position, weights=one.gaps, minlength=len(counts) * CALIBRATION_BINS)
        .reshape(len(counts), CALIBRATION_BINS)
        for one in (own, other)
    )  # fmt: skip
    found = [
        (np.abs(drawn @ ours).sum(axis=1) - np.abs(drawn @ theirs).sum(axis=1)) / (drawn @ counts)
        for drawn in resampled(len(counts), _RESAMPLES, random)
    ]
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)
