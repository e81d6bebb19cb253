"""What a prediction answers: a score a row, or, of a model of K classes, its most probable class and that one's score.

The class is the `label` of an answer. In tables, where `label` is the outcome, it stands in the column `predicted`.
This module knows nothing of requests, features or the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class ScoredRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One row's answer; `features` only when they were asked for."""

    id: str
    score: float
    flags: Sequence[str]
    features: dict[str, Any] | None = None

    # an empty list of flags is an answer too, so it has no default


class ClassedRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The same of a model of K classes: `label` is the most probable class, of equal ones the first, and `score` its
    probability; `scores` are those of all classes by name, only when they were asked for."""

    id: str
    score: float
    label: str
    flags: Sequence[str]
    features: dict[str, Any] | None = None
    scores: dict[str, float] | None = None


class Answer(msgspec.Struct, frozen=True):
    """The body of a successful prediction."""

    use_case: str
    version: int
    predictions: Sequence[ScoredRow | ClassedRow]


class Classed:
    """What a batch's rows were given: the probabilities (rows, classes), and of each row the most probable class."""

    def __init__(self, names: Sequence[str], scores: NDArray[np.float64]) -> None:
        self._names, self._scores = names, scores
        self.labels: list[str] = [names[position] for position in scores.argmax(axis=1).tolist()]
        self.best: list[float] = scores.max(axis=1).tolist()

    def rows(self, rows: Sequence[ScoredRow], *, start: int, scores: bool) -> list[ClassedRow]:
        """These answers, of the batch's rows from `start` on, with their labels and, if wanted, all their scores."""
        places = range(start, start + len(rows))
        everything = self._scores[start : start + len(rows)].tolist() if scores else [()] * len(rows)
        return [
            ClassedRow(
                row.id, row.score, self.labels[place], row.flags, row.features,
                dict(zip(self._names, each, strict=True)) if scores else None,
            )
            for row, place, each in zip(rows, places, everything, strict=True)
        ]  # fmt: skip
