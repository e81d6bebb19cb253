"""Where a window changed: the same comparison within each slice that is large enough on both sides.

A fault in one carrier's feed is a tenth of the rows and may move no column of the whole. The p-values of all slices are
corrected together, as one family beside that of the whole window. This module knows nothing of labels or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from millrace.usecase import Monitor
from monitoring.arrays import without_arrays
from monitoring.data_quality import missing_share
from monitoring.drift import SCORE, ColumnDrift, compared_columns, judge, measure
from monitoring.rows import sample

_WINDOW_SAMPLES = 4
"""The window's sample has to fill every slice, so it is this many times `Monitor.sample`."""
_SLICE_ROWS = 1_000
"""Rows of a slice that are compared at most, on either side: a column costs 3 ms."""


@dataclass(frozen=True, slots=True)
class SliceDrift:
    """The rows whose `column` has this value; `rows` and `missing` (the largest rise of a column's share of missing
    values) are of the sample. `columns` are those that drifted, the score among them, by effect."""

    column: str
    value: str
    rows: int
    missing: float
    columns: tuple[ColumnDrift, ...]

    @property
    def sentence(self) -> str:
        """The drift in words; empty when nothing drifted."""
        if not self.columns:
            return ""
        names = ", ".join(column.name for column in self.columns[:3]) + (", …" if len(self.columns) > 3 else "")
        count = f"{len(self.columns)} column{'s' if len(self.columns) > 1 else ''}"
        return f"Where {self.column} is {self.value}, {count} drifted ({names})."

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The rows of one slice on either side."""

    column: str
    value: str
    reference: pl.DataFrame
    current: pl.DataFrame


def slice_drift(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    slices: Sequence[str],
    monitor: Monitor,
    *,
    windows: int = 1,
    seed: int = 0,
) -> tuple[SliceDrift, ...]:
    """Compare each value of each slice column that has `Monitor.min_rows` rows on both sides, in text order.

    A slice column that either frame lacks is skipped. See `drift` for `windows`.
    """
    ours, theirs = sample(reference, reference.height, seed), sample(current, _WINDOW_SAMPLES * monitor.sample, seed)
    pairs = [
        pair
        for column in slices
        if column in ours.columns and column in theirs.columns
        for pair in _pairs(column, ours, theirs, monitor.min_rows, seed)
    ]
    measured = [list(_measured(pair, monitor.min_rows)) for pair in pairs]
    judged = iter(judge([column for columns in measured for column in columns], monitor, windows))
    return tuple(
        SliceDrift(
            pair.column,
            pair.value,
            pair.current.height,
            _missing_rise(pair.reference, pair.current),
            _moved([next(judged) for _ in columns]),
        )
        for pair, columns in zip(pairs, measured, strict=True)
    )


def _pairs(column: str, reference: pl.DataFrame, current: pl.DataFrame, least: int, seed: int) -> Iterator[_Pair]:
    """The values that have rows enough on both sides, each with a sample of its rows, in text order."""
    left, right = (frame[column].cast(pl.String).fill_null("(missing)") for frame in (reference, current))
    ours, theirs = (dict(text.value_counts().iter_rows()) for text in (left, right))
    for value in sorted(ours.keys() & theirs.keys()):
        if min(ours[value], theirs[value]) >= least:
            rows = reference.filter(left == value), current.filter(right == value)
            yield _Pair(column, value, *(without_arrays(sample(part, _SLICE_ROWS, seed)) for part in rows))


def _measured(pair: _Pair, least: int) -> Iterator[ColumnDrift]:
    """The figures of each column that can be compared, uncorrected."""
    for name in compared_columns(pair.reference):
        found = measure(name, pair.reference, pair.current, least)
        if found.beyond is not None:
            yield found


def _moved(columns: Sequence[ColumnDrift]) -> tuple[ColumnDrift, ...]:
    drifted = [column for column in columns if column.drifted]
    return tuple(sorted(drifted, key=lambda column: (column.name != SCORE, -(column.beyond or 0.0), column.name)))


def _missing_rise(reference: pl.DataFrame, current: pl.DataFrame) -> float:
    shared = [name for name in compared_columns(reference) if name in current.columns]
    return max((missing_share(current[name]) - missing_share(reference[name]) for name in shared), default=0.0)
