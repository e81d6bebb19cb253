"""Whether a column of numbers changed its unit: whether more of its values are large, or small, than ever before.

A value's magnitude is counted in steps of a quarter of the tolerance (in logarithms), for the batch and for each
stretch before it. The column jumped when, at some threshold, the share of the batch's values beyond it exceeds the
largest share that any stretch had beyond a threshold `tolerance` times nearer. So growth up to the tolerance passes,
what some stretch had passes, and a jump of a part of the rows is seen like one of all. Zeros have no magnitude and are
left out. This module knows nothing of the lake or of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
import polars as pl

STEPS = 4
"""Steps of magnitude in one tolerance."""
FEWEST = 10
"""Values that a batch or a stretch must have to be judged by."""
BIN = "__bin"
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Jump:
    """`share` of the batch's values lie beyond `threshold`; at most `before` of a stretch's lay beyond `bound`."""

    larger: bool
    share: float
    threshold: float
    before: float
    bound: float


def magnitudes(rows: pl.LazyFrame, column: str, tolerance: float, by: tuple[str, ...] = ()) -> pl.LazyFrame:
    """How many of the column's values have which magnitude, for each value of the columns `by`."""
    size = pl.col(column).cast(pl.Float64).abs()
    step = (size.log(tolerance) * STEPS).floor().cast(pl.Int32).alias(BIN)
    return rows.filter(size.is_finite(), size > 0).group_by(*by, step).len()


def find_jump(batch: pl.DataFrame, past: pl.DataFrame, stretch: str, tolerance: float, part: float) -> Jump | None:
    """The jump of the batch's magnitudes against those of the past, by the column `stretch`; None when there is none.

    Chance is allowed 2/√n of a batch of n values above, 3/√n below: near zero a magnitude says little (degrees around
    freezing), and values that lie together in time are alike.
    """
    n = int(batch["len"].sum())
    if n < FEWEST or past["len"].sum() < FEWEST:
        return None
    bins = np.concatenate([batch[BIN].to_numpy(), past[BIN].to_numpy()])
    least, most = int(bins.min()) - STEPS, int(bins.max()) + STEPS
    now = _shares(batch, np.zeros(batch.height, dtype=int), least, most)
    then = _shares(past, np.unique(past[stretch].to_numpy(), return_inverse=True)[1], least, most)
    for larger, chance in ((True, 2 / sqrt(n)), (False, 3 / sqrt(n))):
        far_first = slice(None, None, -1 if larger else 1)
        share, before = now[0, far_first].cumsum(), then[:, far_first].cumsum(axis=1).max(axis=0)
        at = int(np.argmax(share[:-STEPS] - before[STEPS:]))
        if share[at] - before[at + STEPS] > part + chance:
            edge, nearer = (most - at, -STEPS) if larger else (least + at + 1, STEPS)
            threshold, bound = (float(tolerance ** (step / STEPS)) for step in (edge, edge + nearer))
            return Jump(larger, float(share[at]), threshold, float(before[at + STEPS]), bound)
    return None


def _shares(counts: pl.DataFrame, rows: npt.NDArray[np.int_], least: int, most: int) -> Shares:
    """The share of each magnitude, a row a stretch that has values enough, and last one for all together."""
    table = np.zeros((int(rows.max()) + 2, most - least + 1))
    table[rows, counts[BIN].to_numpy() - least] = counts["len"].to_numpy()
    table[-1] = table[:-1].sum(axis=0)
    table = table[table.sum(axis=1) >= FEWEST]
    shares: Shares = table / table.sum(axis=1, keepdims=True)
    return shares
