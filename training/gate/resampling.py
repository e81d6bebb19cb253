"""The bootstrap's draws: how often each group stands in each resample. Knows nothing of what is resampled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
MIN_GROUPS = 10
"""Of fewer groups the spread between them is not known: then the rows stand alone."""
_CELLS = 1_000_000


def group_positions(rows: int, groups: ArrayLike | None) -> NDArray[np.intp]:
    """Which group each row is of, (rows,), numbered from 0; without `groups`, or with too few, each row is its own.

    Raises `ValueError` for groups of another length.
    """
    if groups is None:
        return np.arange(rows)
    names = np.asarray(groups)
    if names.shape != (rows,):
        raise ValueError(f"groups must hold one value for each of the {rows} rows, not be of shape {names.shape}")
    distinct, position = np.unique(names, return_inverse=True)
    return position if len(distinct) >= MIN_GROUPS else np.arange(rows)


def draws(groups: int, resamples: int, random: np.random.Generator) -> Iterator[Floats]:
    """Blocks (n, groups) of counts, `resamples` rows in all: each row draws as many groups as there are, with
    replacement. A block takes 16 MB at most, or one row."""
    size = max(1, _CELLS // groups)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = random.integers(0, groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)
