"""Whether a window's rows can be trusted at all: columns gone or of another type, values missing or far outside what
was ever seen, new categories, rows repeated, far too few or too many of them.

What fails here is a fault in the data's way to us, not a change of the world: a model trained on it would learn the
fault. All limits are wide on purpose. This module knows nothing of drift tests, of labels or of what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import polars as pl

from millrace.prediction_log import PREDICTED
from monitoring.drift import SCORE, compared_columns, kind_of
from monitoring.rows import sample

MISSING_RISE = 0.25
"""A column fails when the share of its missing values lies this much above the reference's."""
UNSEEN_SHARE = 0.25
"""A column fails when this share of its values are categories that the reference lacks, beyond what chance explains."""
FAR_WIDTHS = 10.0
"""A number is far outside when it lies so many widths of the reference's range beyond it: another unit, not another
season (a month or a counter of days leaves its range by a few widths and is right)."""
FAR_SHARE = 0.25
"""A column fails when this share of its values is far outside."""
COPIED_RISE = 0.25
"""The window fails when the share of its rows that repeat another's features lies this much above the reference's."""
VOLUME_FACTOR = 3.0
"""The window fails when its rows are so many times fewer or more than usual."""
USUAL_WINDOWS = 3
"""So many earlier windows tell what is usual."""


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """One column of a window; shares are of its rows (`unseen` and `outside` of its values), None when there is nothing
    to say: the column is not there, or is of another kind. `outside` is the share beyond the reference's range."""

    name: str
    missing: float | None
    missing_in_reference: float
    unseen: float | None = None
    outside: float | None = None
    stuck: bool = False
    """Whether the window has one value throughout where the reference has several: told, since a month does so, too."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DataQuality:
    """Every column that the reference has, as it stands in the window of `rows` rows.

    `copied` is the share of rows whose features are those of an earlier row, `usual_rows` the median of the earlier
    windows' rows (None while there are too few), `of_rows` what is wrong with the rows as a whole.
    """

    rows: int
    columns: tuple[ColumnQuality, ...]
    copied: float = 0.0
    usual_rows: float | None = None
    of_rows: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each; none when the window can be trusted."""
        return self.of_rows + tuple(column.problem for column in self.columns if column.problem)

    @property
    def stuck(self) -> tuple[str, ...]:
        """The columns that have one value throughout where the reference has several."""
        return tuple(column.name for column in self.columns if column.stuck)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"problems": list(self.problems)}


def check(reference: pl.DataFrame, current: pl.DataFrame, *, earlier_rows: Sequence[int] = ()) -> DataQuality:
    """Look at each column of the reference in the whole window. An empty window has no problems but its emptiness.

    `earlier_rows` are the row counts of earlier windows of the same length.
    """
    usual = float(median(earlier_rows)) if len(earlier_rows) >= USUAL_WINDOWS else None
    if current.is_empty():
        return DataQuality(0, (), usual_rows=usual)
    copied, before = (_copied(sample(frame, reference.height, 0), reference) for frame in (current, reference))
    return DataQuality(
        current.height,
        tuple(_check_column(name, reference, current) for name in compared_columns(reference)),
        copied,
        usual,
        (*_wrong_volume(current.height, usual), *_too_many_copies(copied, before)),
    )


def _wrong_volume(rows: int, usual: float | None) -> list[str]:
    if not usual or usual / VOLUME_FACTOR <= rows <= usual * VOLUME_FACTOR:
        return []
    return [f"the window has {rows:,} rows where {usual:,.0f} are usual"]


def _too_many_copies(copied: float, before: float) -> list[str]:
    if copied - before < COPIED_RISE:
        return []
    return [f"{copied:.0%} of the rows repeat the features of another, in the reference {before:.0%}"]


def _copied(frame: pl.DataFrame, reference: pl.DataFrame) -> float:
    """The share of rows whose features (numbers and text) are those of an earlier row; of no more rows than the
    reference has, since with more of them more are alike. Rows without any value are missing, not copied."""
    names = [name for name in compared_columns(reference) if name in frame.columns and name not in (SCORE, PREDICTED)]
    plain = frame.select(name for name in names if kind_of(frame[name].dtype, frame[name].dtype))
    if not plain.width:
        return 0.0
    rows = plain.filter(pl.any_horizontal(pl.all().is_not_null()))
    return 1.0 - rows.hash_rows(seed=0).n_unique() / rows.height if rows.height else 0.0


def _check_column(name: str, reference: pl.DataFrame, current: pl.DataFrame) -> ColumnQuality:
    ours = reference[name]
    before = missing_share(ours)
    if name not in current.columns:
        return ColumnQuality(name, None, before, problem=f"the column {name} is missing")
    theirs = current[name]
    now = missing_share(theirs)
    kind = kind_of(ours.dtype, theirs.dtype)
    if kind is None and ours.dtype != theirs.dtype:
        return ColumnQuality(name, now, before, problem=f"{name} is {theirs.dtype}, in the reference {ours.dtype}")
    unseen = _unseen(ours, theirs) if kind == "categorical" else None
    outside, far = _outside(ours, theirs) if kind == "numeric" and name != SCORE else (None, 0.0)
    problem = _missing_problem(name, now, before) or _value_problem(name, theirs, unseen, far)
    stuck = kind is not None and _constant(theirs) and not _constant(ours)
    return ColumnQuality(name, now, before, unseen, outside, stuck, problem)


def _missing_problem(name: str, now: float, before: float) -> str:
    return f"{name} is {now:.0%} missing, in the reference {before:.0%}" if now - before >= MISSING_RISE else ""


def _value_problem(name: str, column: pl.Series, unseen: float | None, far: float) -> str:
    if name == SCORE and (wrong := column.len() - int(column.is_between(0, 1).sum())):
        return f"{wrong:,} scores are missing or no probability"
    if unseen is not None and unseen >= UNSEEN_SHARE:
        return f"{unseen:.0%} of the values of {name} are categories that the reference lacks"
    if far >= FAR_SHARE:
        return f"{far:.0%} of the values of {name} lie {FAR_WIDTHS:g} times the reference's range beyond it"
    return ""


def _outside(reference: pl.Series, current: pl.Series) -> tuple[float, float]:
    """The shares of the values that lie beyond the reference's range, and `FAR_WIDTHS` widths of it beyond.

    A constant reference has no width: nothing is far from it.
    """
    ours = reference.cast(pl.Float64)
    seen = ours.filter(ours.is_finite()).to_numpy()
    theirs = current.cast(pl.Float64)
    finite = theirs.is_finite()
    values = int(finite.sum())
    if not len(seen) or not values:
        return 0.0, 0.0
    low, high = float(seen.min()), float(seen.max())
    width = FAR_WIDTHS * (high - low)
    beyond = values - int((theirs.is_between(low, high) & finite).sum())
    far = values - int((theirs.is_between(low - width, high + width) & finite).sum()) if width else 0
    return beyond / values, far / values


def _constant(column: pl.Series) -> bool:
    """Whether there are values and all are one; an empty column is not."""
    present = column.drop_nulls()
    return bool(len(present)) and bool((present == present[0]).all())


def missing_share(column: pl.Series) -> float:
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
