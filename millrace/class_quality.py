"""The figures of `millrace.quality` for an outcome of K classes.

Everything takes positions of classes `y` (n,) and a probability of each class `p` (n, K), checked by the caller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a row may add up to: float32 engines and 8 bits round."""


def checked_classes(outcomes: Floats, scores: Floats) -> Codes:
    """The outcomes as positions; `ValueError` when they or the probabilities are none of K classes."""
    if outcomes.shape != scores.shape[:1]:
        raise ValueError(f"y and p must be of one length, not of shapes {outcomes.shape} and {scores.shape}")
    codes = outcomes.astype(np.int64)
    if (codes != outcomes).any() or ((codes < 0) | (codes >= scores.shape[1])).any():
        raise ValueError(f"y must hold positions of {scores.shape[1]} classes only")
    if not (np.abs(scores.sum(axis=1) - 1) <= SUM_TOLERANCE).all():
        raise ValueError("the probabilities of each row must add up to 1, none missing")
    return codes


def of_outcome(codes: Codes, scores: Floats) -> Floats:
    """The probability that each row gave to what happened, (n,)."""
    chosen: Floats = np.take_along_axis(scores, codes[:, None], axis=1)[:, 0]
    return chosen


def brier_rows(codes: Codes, scores: Floats) -> Floats:
    """The Brier score of each row (n,): squared differences summed over the classes (Brier 1950), from 0 to 2."""
    right = of_outcome(codes, scores)
    rows: Floats = (scores**2).sum(axis=1) - 2 * right + 1
    return rows


def top_label(codes: Codes, scores: Floats) -> tuple[Floats, Floats]:
    """Whether the most probable class happened (n,), 0 or 1, and its probability (n,); of equal ones the first."""
    return (scores.argmax(axis=1) == codes).astype(np.float64), scores.max(axis=1)
