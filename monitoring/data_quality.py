"""Whether a window's rows can be trusted at all: columns gone or of another type, values missing, new categories.

What fails here is a fault in the data's way to us, not a change of the world: a model trained on it would learn the
fault. All limits are wide on purpose. This module knows nothing of drift tests, of labels or of what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from monitoring.drift import SCORE, compared_columns, kind_of

MISSING_RISE = 0.25
"""A column fails when the share of its missing values lies this much above the reference's."""
UNSEEN_SHARE = 0.25
"""A column fails when this share of its values are categories that the reference lacks, beyond what chance explains."""


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """One column of a window; shares are of its rows (`unseen` of its values), None when the column is not there."""

    name: str
    missing: float | None
    missing_in_reference: float
    unseen: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DataQuality:
    """Every column that the reference has, as it stands in the window of `rows` rows."""

    rows: int
    columns: tuple[ColumnQuality, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each; none when the window can be trusted."""
        return tuple(column.problem for column in self.columns if column.problem)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"problems": list(self.problems)}


def check(reference: pl.DataFrame, current: pl.DataFrame) -> DataQuality:
    """Look at each column of the reference in the whole window. An empty window has no problems but its emptiness."""
    if current.is_empty():
        return DataQuality(0, ())
    return DataQuality(
        current.height, tuple(_check_column(name, reference, current) for name in compared_columns(reference))
    )


def _check_column(name: str, reference: pl.DataFrame, current: pl.DataFrame) -> ColumnQuality:
    ours = reference[name]
    before = _missing(ours)
    if name not in current.columns:
        return ColumnQuality(name, None, before, problem=f"the column {name} is missing")
    theirs = current[name]
    now = _missing(theirs)
    kind = kind_of(ours.dtype, theirs.dtype)
    if kind is None and ours.dtype != theirs.dtype:
        return ColumnQuality(name, now, before, problem=f"{name} is {theirs.dtype}, in the reference {ours.dtype}")
    if now - before >= MISSING_RISE:
        return ColumnQuality(name, now, before, problem=f"{name} is {now:.0%} missing, in the reference {before:.0%}")
    if name == SCORE and (wrong := theirs.len() - int(theirs.is_between(0, 1).sum())):
        return ColumnQuality(name, now, before, problem=f"{wrong:,} scores are missing or no probability")
    unseen = _unseen(ours, theirs) if kind == "categorical" else None
    problem = ""
    if unseen is not None and unseen >= UNSEEN_SHARE:
        problem = f"{unseen:.0%} of the values of {name} are categories that the reference lacks"
    return ColumnQuality(name, now, before, unseen, problem)


def _missing(column: pl.Series) -> float:
    """The share of nulls and, among numbers, of NaN and infinities."""
    if column.is_empty():
        return 0.0
    present = column.is_not_null()
    if column.dtype.is_float():
        present &= column.is_finite().fill_null(value=False)
    return 1.0 - int(present.sum()) / column.len()


def _unseen(reference: pl.Series, current: pl.Series) -> float:
    """The share of the values whose category the reference lacks, less what a sample of its size must miss.

    That is estimated by the share of the reference's values that occur once (Good, Biometrika 40, 1953).
    """
    ours, theirs = (column.cast(pl.String).drop_nulls() for column in (reference, current))
    if ours.is_empty() or theirs.is_empty():
        return 0.0
    once = int((ours.value_counts()["count"] == 1).sum()) / ours.len()
    seen = int(theirs.is_in(ours.unique().implode()).sum())
    return max(0.0, 1.0 - seen / theirs.len() - once)


def describe(problems: Sequence[str], most: int = 3) -> str:
    """The problems in one line, the first few in words."""
    rest = len(problems) - most
    return "; ".join(problems[:most]) + (f"; and {rest} more" if rest > 0 else "")
