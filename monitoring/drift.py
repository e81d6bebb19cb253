"""Which columns of a window are distributed otherwise than in another frame, the score among them.

Evidently measures each column on a bounded, seeded sample; here the p-values are corrected over the columns, and over
the windows that share a reference, and a column counts as drifted when it is significant and its effect beyond chance
is large enough to matter. This module knows nothing of labels, of models or of what a drift should lead to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.prediction_log import COLUMNS as LOG_COLUMNS
from millrace.prediction_log import PREDICTED
from millrace.usecase import LABEL, Monitor
from monitoring.arrays import without_arrays
from monitoring.rows import sample
from monitoring.two_samples import TESTS, Kind, beyond_chance, compare

SCORE = "score"
"""The column of the model's predictions, in the reference and in the window."""

_NOT_COMPARED = frozenset(LOG_COLUMNS) - {SCORE} | {LABEL, "label_known_at"}


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column of the window against the reference.

    `p_adjusted` is the p-value corrected over all columns; `effect` is the Wasserstein distance in standard deviations
    of the reference (numeric) or the Jensen-Shannon distance (categorical); `chance` is the one that samples of these
    sizes have without any change, and `beyond` what is left of the effect without it. All are None, and `note` says
    why, when the column could not be compared; it is then never `drifted`.
    """

    name: str
    kind: str
    test: str
    p_value: float | None = None
    p_adjusted: float | None = None
    effect: float | None = None
    chance: float | None = None
    beyond: float | None = None
    drifted: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """Every column of the reference against a window of `rows` rows; `note` says what kept it from being judged."""

    columns: tuple[ColumnDrift, ...]
    rows: int
    reference_rows: int
    note: str = ""

    @property
    def drifted(self) -> tuple[str, ...]:
        """The names of the drifted columns, the score aside, largest effect first."""
        return tuple(column.name for column in self._by_effect() if column.drifted and column.name != SCORE)

    @property
    def score(self) -> ColumnDrift | None:
        """The drift of the model's predictions, if they were compared."""
        return next((column for column in self.columns if column.name == SCORE and column.effect is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def _by_effect(self) -> list[ColumnDrift]:
        return sorted(self.columns, key=lambda column: (-(column.beyond or 0.0), column.name))


def drift(
    reference: pl.DataFrame, current: pl.DataFrame, monitor: Monitor, *, windows: int = 1, seed: int = 0
) -> Drift:
    """Compare each column of the reference with the same column of the window.

    `windows` is how many windows are compared with this reference: each is tested at its share of `monitor.alpha`
    (Bonferroni, which holds however much they depend on one another, as they do through the reference they share).

    Labels, keys and times of the prediction log are left out. Of each frame at most `monitor.sample` rows are looked
    at, drawn with the seed. Missing and infinite values are left out of the comparison (data quality watches their
    share). A column is compared when both sides have at least `monitor.min_rows` values, and both numbers (booleans
    among them) or both text. Deterministic; raises nothing for a frame of another schema, the notes say it.
    """
    names = compared_columns(reference)
    ours, theirs = (without_arrays(sample(frame, monitor.sample, seed)) for frame in (reference, current))
    measured = [measure(name, ours, theirs, monitor.min_rows) for name in compared_columns(ours)]
    return Drift(
        columns=tuple(judge(measured, monitor, windows)),
        rows=current.height,
        reference_rows=reference.height,
        note=_note(names, reference, current, monitor.min_rows),
    )


def compared_columns(reference: pl.DataFrame) -> list[str]:
    """The columns of a reference that a window is compared on: its features, the score and the predicted class."""
    return [name for name in reference.columns if name not in _NOT_COMPARED]


def adjusted_p_values(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p-values, in the order given (J. R. Stat. Soc. B 57, 1995).

    Rejecting those at or below alpha keeps the expected share of false rejections at alpha; when nothing has changed,
    that is the chance of any rejection at all. Holds for independent and for positively dependent tests.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    scaled = given[order] * len(given) / np.arange(1, len(given) + 1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return [float(value) for value in adjusted]


def kind_of(reference: pl.DataType, current: pl.DataType) -> Kind | None:
    """How two columns of these types are compared; None when they cannot be (numbers with text, times, lists).

    A boolean is a number beside numbers (the prediction log stores it so), else a category. A column that is null
    throughout has the other's kind.
    """
    if reference == pl.Null or current == pl.Null:
        known = current if reference == pl.Null else reference
        return "numeric" if known == pl.Null else kind_of(known, known)
    if reference == current == pl.Boolean:
        return "categorical"
    if all(dtype.is_numeric() or dtype == pl.Boolean for dtype in (reference, current)):
        return "numeric"
    texts = (pl.String, pl.Categorical, pl.Enum)
    return "categorical" if reference in texts and current in texts else None


def measure(name: str, reference: pl.DataFrame, current: pl.DataFrame, min_rows: int) -> ColumnDrift:
    """One column's figures, uncorrected, or the note that says why there are none."""
    if name not in current.columns:
        return ColumnDrift(name, "", "", note="missing from the window")
    ours, theirs = reference[name], current[name]
    kind = kind_of(ours.dtype, theirs.dtype)
    if kind is None:
        types = f"{ours.dtype} in the reference, {theirs.dtype} in the window"
        return ColumnDrift(name, "", "", note=f"not comparable: {types}")
    left, right = _numbers(ours, theirs) if kind == "numeric" else _codes(ours, theirs)
    if note := _too_few(len(left), len(right), min_rows):
        return ColumnDrift(name, kind, "", note=note)
    found = compare(kind, left, right)
    constant = "constant" if left.min() == left.max() == right.min() == right.max() else ""
    beyond = beyond_chance(found.effect, found.chance)
    figures = (found.p_value, found.p_value, found.effect, found.chance, beyond)
    return ColumnDrift(name, kind, TESTS[kind], *figures, note=constant)


def _too_few(reference: int, current: int, min_rows: int) -> str:
    if not reference or not current:
        return "no values in the " + ("reference" if not reference else "window")
    if min(reference, current) < min_rows:
        return f"too few values: {reference:,} in the reference, {current:,} in the window, {min_rows:,} are needed"
    return ""


def _numbers(*columns: pl.Series) -> list[NDArray[Any]]:
    floats = [column.cast(pl.Float64).drop_nulls() for column in columns]
    return [column.filter(column.is_finite()).to_numpy() for column in floats]


def _codes(reference: pl.Series, current: pl.Series) -> list[NDArray[Any]]:
    """The categories as ranks of their text, common to both: sums over them then come in one order in every process."""
    left, right = (column.cast(pl.String).drop_nulls() for column in (reference, current))
    codes = pl.concat([left, right]).rank("dense").cast(pl.Int64).to_numpy()
    return [codes[: len(left)], codes[len(left) :]]


def judge(measured: Sequence[ColumnDrift], monitor: Monitor, windows: int = 1) -> list[ColumnDrift]:
    """Correct over the columns that were compared, then apply the threshold and the floor of the effect."""
    level = monitor.alpha / max(windows, 1)
    adjusted = iter(adjusted_p_values([column.p_value for column in measured if column.p_value is not None]))
    judged = []
    for column in measured:
        if column.p_value is not None and column.beyond is not None:
            corrected = next(adjusted)
            drifted = corrected <= level and column.beyond >= monitor.min_effect
            judged.append(replace(column, p_adjusted=corrected, drifted=drifted))
        else:
            judged.append(column)
    return judged


def _note(names: Sequence[str], reference: pl.DataFrame, current: pl.DataFrame, min_rows: int) -> str:
    """What holds for the whole comparison, in words."""
    parts = []
    if current.is_empty() or reference.is_empty():
        parts.append(f"the {'window' if current.is_empty() else 'reference'} is empty")
    elif current.height < min_rows:
        parts.append(f"only {current.height:,} rows: {min_rows:,} are needed to speak of drift")
    if names and not set(names) & set(current.columns):
        parts.append("no column of the reference is in the window")
    extra = sorted(set(current.columns) - set(reference.columns) - _NOT_COMPARED - {PREDICTED})
    if extra:
        parts.append(f"not in the reference and so not compared: {', '.join(extra)}")
    return "; ".join(parts)
