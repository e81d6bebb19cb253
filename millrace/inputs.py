"""The inputs of a model: what training saw of each, and the columns of the matrix that a frame's column becomes.

Knows columns only: nothing of requests, bundles or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.errors import FeatureError, TrainingError

MAX_CATEGORIES = 1_000
"""A column with more distinct texts keeps its most frequent ones; the others count as unseen."""
FLAG = ("false", "true")


@dataclass(frozen=True)
class InputSpec:
    """One model input and what training saw of it: `low` and `high` of a numeric one, and the `default`, which is its
    median or the most frequent category.

    An array-valued input is numeric and has a `size` above 1: so many columns of the matrix, all or none of them
    missing. A numeric input that was `always_missing` in training is encoded as 0 whatever its value: no model can have
    learned from it, and scikit-learn 1.9's gradient boosting fails on a column of NaN only.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    always_missing: bool = False
    size: int = 1
    default: float | str | None = None


def describe_inputs(frame: pl.DataFrame, features: Sequence[str]) -> tuple[InputSpec, ...]:
    """The inputs of a model that is fitted on `frame`: text and booleans are categorical, numbers numeric.

    Give it the rows that the model is fitted on and no others. Raises `TrainingError` for a feature of another type.
    """
    return tuple(_describe(frame.get_column(name)) for name in features)


def _describe(column: pl.Series) -> InputSpec:
    dtype = column.dtype
    if dtype == pl.Boolean:
        return InputSpec(column.name, "categorical", FLAG, default=_most_frequent(column.cast(pl.String)))
    if _is_text(dtype):
        counts = column.cast(pl.String).drop_nulls().value_counts(name="rows")
        kept = counts.sort(["rows", column.name], descending=[True, False]).head(MAX_CATEGORIES)
        names = kept.get_column(column.name)
        return InputSpec(column.name, "categorical", tuple(names.sort()), default=names[0] if len(names) else None)
    if is_numeric_array(dtype):
        return _describe_arrays(column)
    if not (dtype.is_numeric() or dtype == pl.Null):
        raise TrainingError(
            f"The feature {column.name!r} is of type {dtype}, which a model cannot take.",
            todo="Make it a number, a text or a boolean in the feature view (a duration: its hours).",
        )
    return _describe_numbers(column.name, _numbers(column))


def _describe_numbers(name: str, values: NDArray[np.float64], size: int = 1) -> InputSpec:
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    finite = narrow[np.isfinite(narrow)]
    if not len(finite):
        return InputSpec(name, "numeric", always_missing=True, size=size)
    low, high, median = float(finite.min()), float(finite.max()), float(np.median(finite))
    return InputSpec(name, "numeric", low=low, high=high, size=size, default=median)


def _describe_arrays(column: pl.Series) -> InputSpec:
    lengths = column.cast(pl.List(pl.Float64)).list.len().drop_nulls().unique().sort().to_list()
    if len(lengths) != 1 or lengths[0] < 2:
        raise TrainingError(
            f"The feature {column.name!r} holds arrays of {', '.join(map(str, lengths[:5])) or 'no'} values.",
            todo="Give every row an array of one length, of two numbers at least.",
        )
    return _describe_numbers(column.name, _array_numbers(column, lengths[0]), lengths[0])


def _most_frequent(texts: pl.Series) -> str | None:
    counts = texts.drop_nulls().value_counts(name="rows").sort(["rows", texts.name], descending=[True, False])
    return counts.get_column(texts.name)[0] if counts.height else None


def is_numeric_array(dtype: pl.DataType) -> bool:
    """Whether a column of this type holds arrays of numbers, of one length or of any."""
    return isinstance(dtype, (pl.List, pl.Array)) and pl.Series(dtype=dtype.inner).dtype.is_numeric()


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise FeatureError(f"The feature {column.name!r} must be numeric, but the rows hold {column.dtype}.")
    return column.cast(pl.Float64).fill_null(nan).to_numpy()


def encode_column(column: pl.Series, spec: InputSpec) -> NDArray[Any]:
    """The input's columns of the matrix, (rows, size)."""
    if spec.always_missing:
        return np.zeros((len(column), spec.size))
    if spec.size > 1:
        return _array_numbers(column, spec.size)
    return (_numbers(column) if spec.kind == "numeric" else _codes(column, spec)).reshape(-1, 1)


def _array_numbers(column: pl.Series, size: int) -> NDArray[np.float64]:
    """Arrays as (rows, size), NaN where the array or one of its values is null."""
    dtype = column.dtype
    if dtype == pl.Null:
        return np.full((len(column), size), nan)
    wanted = f"The feature {column.name!r} must hold arrays of {size} numbers"
    if not is_numeric_array(dtype):
        raise FeatureError(f"{wanted}, but the rows hold {dtype}.")
    lists = column.cast(pl.List(pl.Float64))
    wrong = lists.list.len().drop_nulls().unique().to_list()
    if wrong not in ([], [size]):
        raise FeatureError(f"{wanted}, but rows hold {', '.join(map(str, sorted(wrong)[:5]))}.")
    values = np.full((len(lists), size), nan)
    given = lists.drop_nulls().explode().fill_null(nan).to_numpy()
    values[lists.is_not_null().to_numpy()] = given.reshape(-1, size)
    return values


def _codes(column: pl.Series, spec: InputSpec) -> NDArray[Any]:
    table, unseen = code_table(spec), len(spec.categories)
    if _is_text(column.dtype):
        table = {value: code for value, code in table.items() if isinstance(value, str)}
        column = column.cast(pl.String)
    elif column.dtype == pl.Boolean or column.dtype.is_numeric():
        table = {float(value): code for value, code in table.items() if not isinstance(value, str)}
        column = column.cast(pl.Float64)
    elif column.dtype != pl.Null:
        raise FeatureError(f"The feature {column.name!r} must be text or a boolean, but the rows hold {column.dtype}.")
    if not table or column.dtype == pl.Null:
        return np.full(len(column), unseen)
    codes = column.replace_strict(list(table), list(table.values()), default=unseen, return_dtype=pl.Int32)
    return codes.to_numpy()


def code_table(spec: InputSpec) -> dict[Any, int]:
    """Value → code. Text matches text; a boolean input also takes True and False (and so 1 and 0)."""
    codes: dict[Any, int] = {category: code for code, category in enumerate(spec.categories)}
    return {**codes, False: 0, True: 1} if spec.categories == FLAG else codes
