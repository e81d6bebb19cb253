"""Whether the path that serves gives hold-out rows the scores that the model is judged by, value by value.

Knows nothing of how the rows were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.gate.verdict import Check, plain

CLOSE = 1e-5
"""The most that two scores of one row may differ, as between a fitted model and its export: float32 sums depend on how
many rows are computed at once."""


@dataclass(frozen=True, slots=True)
class ScoreParity:
    """What the rows were given: how many were asked and how many of them differ, the largest difference, and of the row
    that has it the place and both scores (of the outcome that differs most)."""

    rows: int
    mismatches: int
    difference: float
    worst: int
    offline: float
    online: float

    @property
    def holds(self) -> bool:
        """Whether not one row differs."""
        return self.mismatches == 0


def compare_scores(offline: ArrayLike, online: Sequence[ArrayLike]) -> ScoreParity:
    """Scores (rows,) or (rows, classes) against what the same rows were answered, in the same order.

    A NaN differs from everything. `ValueError` when there are none, or not as many.
    """
    ours = np.asarray(offline, dtype=np.float64)
    theirs = np.asarray(online, dtype=np.float64).reshape(-1, *ours.shape[1:])
    if ours.shape != theirs.shape or not len(ours):
        raise ValueError(f"Scores of the shape {theirs.shape} cannot be compared with those of the shape {ours.shape}.")
    apart = np.nan_to_num(np.abs(ours - theirs), nan=np.inf, posinf=np.inf).reshape(len(ours), -1)
    row, column = np.unravel_index(apart.argmax(), apart.shape)
    return ScoreParity(
        rows=len(ours),
        mismatches=int((apart > CLOSE).any(axis=1).sum()),
        difference=float(apart[row, column]),
        worst=int(row),
        offline=float(ours.reshape(apart.shape)[row, column]),
        online=float(theirs.reshape(apart.shape)[row, column]),
    )


def check_scores(found: ScoreParity) -> Check:
    """The rule: no row's score differs by more than `CLOSE`."""
    if found.holds:
        reason = f"Along the path that serves, {found.rows:,} hold-out rows are given the scores that it is judged by."
    else:
        reason = (
            f"Along the path that serves, {found.mismatches:,} of {found.rows:,} hold-out rows are given other scores "
            f"than those that it is judged by: row {found.worst:,} of them {found.online:.6g} instead of "
            f"{found.offline:.6g}, where {CLOSE:g} may lie between."
        )
    return Check("scores", found.holds, reason, plain(found) | {"close": CLOSE})
