"""Whether a challenger fails some of the rows: every slice against the champion, paired on the same rows.

A slice is worse when its mean difference of row log losses is above the margin beyond chance, corrected for the number
of slices (Holm). Knows scores and columns; nothing of models, frames or of what the slices mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millrace.quality import row_log_losses
from training.gate.resampling import MIN_GROUPS, group_positions
from training.gate.verdict import Check, plain

Floats = NDArray[np.float64]

ALPHA = 0.05
"""The chance that a challenger is refused for any of its slices when all of them just keep the margin."""
MIN_ROWS = 100
"""As few as `millrace.quality.slice_quality` tells; of fewer, a difference of 0.05 nats is never beyond chance."""


@dataclass(frozen=True, slots=True)
class SliceDifference:
    """The rows whose `column` has this value (a missing one is `(missing)`).

    `mean` is that of (challenger's − champion's) row log loss in nats, with its 95 % interval; `p_value`, corrected for
    all slices, that of "not above the margin".
    """

    column: str
    value: str
    rows: int
    groups: int
    mean: float
    low: float
    high: float
    p_value: float
    worse: bool


@dataclass(frozen=True, slots=True)
class SliceComparison:
    """Every slice that could be compared, the worst first; `too_small` others had too few rows or groups."""

    margin: float
    tested: tuple[SliceDifference, ...]
    too_small: int

    @property
    def worse(self) -> tuple[SliceDifference, ...]:
        """The slices that refuse a challenger."""
        return tuple(one for one in self.tested if one.worse)


def compare_slices(
    y: ArrayLike,
    challenger: ArrayLike,
    champion: ArrayLike,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    margin: float,
    groups: ArrayLike | None = None,
    min_rows: int = MIN_ROWS,
    alpha: float = ALPHA,
) -> SliceComparison:
    """Compare two models by slice, on outcomes `y` (n,) and the scores of both, (n,) or (n, K).

    `columns` holds the n values of each slicing column, `margin` the nats by which a slice may be worse, `groups` (n,)
    the rows that share what happened, such as those of one hour; without it, or with fewer than ten, each row stands
    alone. The test is Student's t on the mean, with the standard error of clustered rows (Liang & Zeger, Biometrika
    1986) and one degree of freedom less than groups. Raises `ValueError` for scores that are no probabilities.
    """
    differences = row_log_losses(y, challenger) - row_log_losses(y, champion)
    position = group_positions(len(differences), groups)
    found: list[tuple[str, str, int, int, float, float]] = []
    too_small = 0
    for column, values in columns.items():
        if len(values) != len(differences):
            raise ValueError(
                f"the column {column} has {len(values)} values, not one for each of {len(differences)} rows"
            )
        text = np.array(["(missing)" if value is None else str(value) for value in values], dtype=np.str_)
        for name, rows, members, mean, error in zip(*_means(text, position, differences), strict=True):
            if rows < min_rows or members < MIN_GROUPS:
                too_small += 1
            else:
                found.append((column, str(name), int(rows), int(members), float(mean), float(error)))
    return SliceComparison(margin, _tested(found, margin, alpha), too_small)


def check_slices(found: SliceComparison) -> Check:
    """The rule: no slice is worse than the margin allows."""
    worse, count = found.worse, len(found.tested)
    if worse:
        told = "; ".join(map(_in_words, worse[:3])) + (f"; and {len(worse) - 3} more" if len(worse) > 3 else "")
        reason = f"It is worse than the champion, by more than the {found.margin:g} nats allowed, for {told}."
    elif count:
        reason = f"Of {count} slices none is worse than under the champion by more than {found.margin:g} nats."
    else:
        reason = "No slice has enough rows to be compared with the champion."
    return Check("slices", not worse, reason, plain(found))


def _means(text: NDArray[np.str_], groups: NDArray[np.intp], values: Floats) -> tuple[NDArray[Any], ...]:
    """Of each distinct text: itself, its rows, its groups, the mean of its values and that mean's standard error."""
    names, code = np.unique(text, return_inverse=True)
    pairs, member = np.unique(code * (groups.max(initial=0) + 1) + groups, return_inverse=True)
    of_name = pairs // (groups.max(initial=0) + 1)
    rows, members = np.bincount(code, minlength=len(names)), np.bincount(of_name, minlength=len(names))
    means = np.bincount(code, weights=values, minlength=len(names)) / np.maximum(rows, 1)
    spread = np.bincount(member, weights=values - means[code], minlength=len(pairs))
    squares = np.bincount(of_name, weights=spread**2, minlength=len(names))
    errors = np.sqrt(squares * members / np.maximum(members - 1, 1)) / np.maximum(rows, 1)
    return names, rows, members, means, errors


def _tested(
    found: Sequence[tuple[str, str, int, int, float, float]], margin: float, alpha: float
) -> tuple[SliceDifference, ...]:
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # it ships no types

    degrees = np.array([members - 1 for *_, members, _, _ in found], dtype=np.float64)
    means, errors = (np.array([one[place] for one in found], dtype=np.float64) for place in (4, 5))
    above = means - margin
    scaled = np.divide(above, errors, out=np.where(above > 0, np.inf, -np.inf), where=errors > 0)
    adjusted = holm(stdtr(degrees, -scaled))
    half = stdtrit(degrees, 0.975) * errors
    tested = [
        SliceDifference(*one[:5], one[4] - float(wide), one[4] + float(wide), float(p), bool(p < alpha))
        for one, wide, p in zip(found, half, adjusted, strict=True)
    ]
    return tuple(sorted(tested, key=lambda one: (one.p_value, -one.mean)))


def holm(p_values: Floats) -> Floats:
    """p-values corrected so that the chance of any false rejection is kept, whatever their dependence (Holm 1979)."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(count, 0, -1))
    corrected = np.empty(count)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _in_words(one: SliceDifference) -> str:
    p = f"{one.p_value:.3f}" if one.p_value >= 0.001 else "below 0.001"
    return f"{one.column} {one.value} by {one.mean:.3f} on {one.rows:,} rows (corrected p {p})"
