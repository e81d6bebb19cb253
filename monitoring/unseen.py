"""How much of a window lies beyond what the champion learned from.

A model knows nothing of a number outside the range that it was fitted on: a tree answers as at the range's end. This
module knows frames and contracts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.contract import Contract
from millrace.errors import FeatureError


@dataclass(frozen=True, slots=True)
class Unseen:
    """The share of a window's rows of which some input lies beyond all that the champion was fitted on, and the inputs
    that do in most rows, the worst first (three at most)."""

    share: float
    inputs: tuple[str, ...]


def unseen(contract: Contract, rows: pl.DataFrame) -> Unseen | None:
    """Compare a window's rows with what the contract's inputs showed in training.

    A number counts outside the range seen, a text when it was not among the categories; what is missing does not count.
    The share is less what chance explains: of n rows to learn from, the next one is beyond them in one input with a
    chance of 2 / (n + 1). None without rows, and for rows that the model could not take.
    """
    if rows.is_empty():
        return None
    try:
        beyond = contract.outside(contract.encode_frame(rows))
    except FeatureError:  # rows of another schema: the data's quality says so
        return None
    ends = np.cumsum([spec.size for spec in contract.inputs])[:-1]
    parts = np.split(beyond, ends, axis=1)
    by_input = [
        part.any(axis=1) & ~_missing(rows, spec.name, spec.kind)
        for spec, part in zip(contract.inputs, parts, strict=True)
    ]
    any_of = np.logical_or.reduce(by_input)
    names = sorted((float(one.mean()), spec.name) for one, spec in zip(by_input, contract.inputs, strict=True))
    worst = tuple(name for share, name in reversed(names[-3:]) if share > 0)
    return Unseen(max(float(any_of.mean()) - _by_chance(contract), 0.0), worst)


def _missing(rows: pl.DataFrame, name: str, kind: str) -> NDArray[Any]:
    """Which rows lack the value; of a number the contract knows it already."""
    return rows[name].is_null().to_numpy() if kind == "categorical" else np.zeros(rows.height, dtype=bool)


def _by_chance(contract: Contract) -> float:
    """The share of rows that is beyond the ranges of independent inputs though nothing has changed."""
    learned = int(contract.lineage.get("fit", {}).get("rows", 0))
    numbers = sum(spec.kind == "numeric" for spec in contract.inputs)
    return min(2 * numbers / (learned + 1), 1.0) if learned else 0.0
