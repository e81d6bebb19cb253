"""The stretches of time that a search judges parameters on: rolling origin, never a row at random.

Each fold does what the gate does later (`training.split`): it fits on the labels that were known at a moment and
watches the rows that came after it. This module knows nothing of models, losses or searches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millrace.errors import TrainingError

Times = NDArray[np.datetime64]


@dataclass(frozen=True, slots=True)
class Fold:
    """Positions of the rows to fit on and to watch, each ascending; `fit` is a slice, and so a view, where it can be.

    Every fit row happened by `cut` and its label was known by then; every watch row happened after it.
    """

    fit: slice | NDArray[np.intp]
    watch: slice
    cut: np.datetime64


def rolling_origin(
    times: Times,
    known: Times,
    y: NDArray[np.int8],
    *,
    folds: int = 3,
    share: float = 0.1,
    classes: int = 0,
    min_rows: int = 100,
) -> list[Fold]:
    """Folds in time order, each watching the next `share` of the rows, the last one up to the last row (Tashman 2000).

    `times` (rows,), ascending, is when each row happened, `known` (rows,) when its label was known; `y` (rows,) holds 0
    and 1, or positions among `classes` classes. Three folds of a tenth fit on at most 70, 80 and 90 % of the rows: near
    what the model is fitted on in the end, since parameters that suit a third of the rows need not suit all of them.

    Raises `TrainingError` when a fold fits on fewer than `min_rows` rows, watches none, or lacks an outcome: both when
    binary; with classes, the fit rows must show every one of them and the watched ones two.
    """
    _check(times, known, y, folds, share)
    size, total = max(1, int(len(times) * share)), len(times)
    found = []
    for number in range(folds):
        begin = total - (folds - number) * size
        cut = times[max(0, begin - 1)]
        start = int(np.searchsorted(times, cut, side="right"))
        end = int(np.searchsorted(times, times[begin + size - 1], side="right"))
        fold = Fold(_positions(known[:start] <= cut), slice(start, end), cut)
        _check_fold(fold, y, f"stretch {number + 1} of {folds}", max(classes, 2), min_rows)
        found.append(fold)
    return found


def _positions(mask: NDArray[np.bool_]) -> slice | NDArray[np.intp]:
    """The places where `mask` is true, as a slice when they are the first ones."""
    count = int(mask.sum())
    return slice(0, count) if mask[:count].all() else np.flatnonzero(mask)


def _check(times: Times, known: Times, y: NDArray[np.int8], folds: int, share: float) -> None:
    if times.ndim != 1 or not times.shape == known.shape == y.shape:
        raise ValueError(
            f"times, known and y must be vectors of one length, not of shapes {times.shape}, {known.shape}, {y.shape}"
        )
    if np.isnat(times).any() or np.isnat(known).any():
        raise ValueError("times and known must not have missing moments")
    if (times[1:] < times[:-1]).any():
        raise ValueError("times must be ascending")
    if folds < 1 or not 0 < share * folds < 1:
        raise ValueError(f"{folds} folds of {share:g} of the rows leave nothing to fit on, or are none")
    if len(times) <= folds:
        raise TrainingError(
            f"There are too few rows to search parameters on: {len(times)}.",
            todo="Train on a longer stretch: training=Training(history=…), or without a search.",
        )


def _check_fold(fold: Fold, y: NDArray[np.int8], which: str, classes: int, min_rows: int) -> None:
    fit, watch = np.unique(y[fold.fit], return_counts=True), np.unique(y[fold.watch])
    rows = int(fit[1].sum())
    if rows < min_rows:
        lacks = f"only {rows} rows had a label by its beginning, {min_rows} are wanted"
    elif len(fit[0]) < classes:
        lacks = f"the {rows} rows known by its beginning show {len(fit[0])} of {classes} outcomes"
    elif len(watch) < 2:
        rows = fold.watch.stop - fold.watch.start
        lacks = f"its {rows} rows show one outcome only" if rows else "it has no rows, since too many share one moment"
    else:
        return
    raise TrainingError(
        f"Parameters cannot be searched: of {which} in time, {lacks}.",
        looked=f"It begins after {np.datetime_as_string(fold.cut, unit='m').replace('T', ' ')} UTC.",
        todo="Train on a longer stretch: training=Training(history=…), or a later --as-of, or without a search.",
    )
