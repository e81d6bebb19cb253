"""What a model takes and where it comes from: its inputs in order, their encoding, the plan that reads them, lineage.

The one encoder of Millrace: training encodes frames with it, serving encodes the rows of a request with it, and both
give the same matrix, bit for bit. It knows nothing of files, model formats or stores.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from math import nan
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.candidates import ModelInput
from millrace.errors import BundleError, FeatureError, RequestError, TrainingError

Matrix = NDArray[np.float32]

MAX_CATEGORIES = 1_000
"""A column with more distinct texts keeps its most frequent ones; the others count as unseen."""
_FLAG = ("false", "true")


@dataclass(frozen=True)
class InputSpec:
    """One model input and what training saw of it: `low` and `high` of a numeric one.

    A numeric input that was `always_missing` in training is encoded as 0 whatever its value: no model can have learned
    from it, and scikit-learn 1.9's gradient boosting fails on a column of NaN only.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    always_missing: bool = False


@dataclass(frozen=True)
class Contract:
    """Everything serving must know of a model besides its weights; stored as `contract.json` of the bundle.

    `engine` says what runs it (`onnx`, or `skops` when the export was not equal), `read_plan` is a `ReadPlan` as a
    dict, `trained_as_of` what the model could know, `lineage` how it came about (run, seed, lake versions, row ranges).
    """

    use_case: str
    question: str
    candidate: str
    engine: Literal["onnx", "skops"]
    inputs: tuple[InputSpec, ...]
    trained_as_of: datetime
    read_plan: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the model's order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def model_inputs(self) -> tuple[ModelInput, ...]:
        """The inputs as a candidate's builder receives them."""
        return tuple(ModelInput(spec.name, spec.kind, spec.categories) for spec in self.inputs)

    def encode_frame(self, frame: pl.DataFrame) -> Matrix:
        """The model's matrix (rows, inputs) of a frame that has the inputs as columns, in any order, among others.

        Numeric: float32, NaN when null, NaN or infinite in float32. Categorical: the position in `categories`;
        `len(categories)` when null or unseen. Raises `FeatureError` for a missing column or text where numbers belong.
        """
        missing = [name for name in self.names if name not in frame.columns]
        if missing:
            raise FeatureError(
                f"The model {self.candidate!r} takes {', '.join(missing)}, which the rows do not have.",
                looked=f"They have {', '.join(frame.columns)}.",
            )
        matrix = np.empty((frame.height, len(self.inputs)), dtype=np.float32, order="F")
        for position, spec in enumerate(self.inputs):
            encode = _zeros if spec.always_missing else _numbers if spec.kind == "numeric" else _codes
            with np.errstate(over="ignore"):
                matrix[:, position] = encode(frame.get_column(spec.name), spec)
        return _without_infinity(np.ascontiguousarray(matrix))

    def encode_rows(self, rows: Sequence[Sequence[Any]]) -> Matrix:
        """The model's matrix (rows, inputs) of plain values, each row in the inputs' order; equal to `encode_frame`.

        Raises `RequestError` (422, naming the input) for a value of the wrong type or a row of the wrong length.
        """
        width, encoders = len(self.inputs), self._encoders
        flat: list[Any] = []
        try:
            for row in rows:
                if len(row) != width:
                    raise RequestError(422, f"A row has {len(row)} values; the model takes {width}.")
                values = list(row)
                for position, code_of, unseen in encoders:
                    values[position] = code_of(values[position], unseen)
                flat += [nan if value is None else value for value in values] if None in values else values
            numbers = np.frombuffer(array("d", flat), dtype=np.float64)
        except (TypeError, OverflowError) as error:
            raise self._wrong_value(rows) from error
        with np.errstate(over="ignore"):
            return _without_infinity(numbers.astype(np.float32).reshape(len(rows), width))

    def outside(self, matrix: Matrix) -> NDArray[np.bool_]:
        """Which values (rows, inputs) training never saw: numbers beyond [low, high], categories missing or unseen.

        A missing number is not outside.
        """
        low, high = self._ranges
        return (matrix < low) | (matrix > high)

    @cached_property
    def _encoders(self) -> tuple[tuple[int, Callable[[Any, int], int], int], ...]:
        """(position, lookup of a value's code, code of anything else) of each input that is not a plain number."""
        found: list[tuple[int, Callable[[Any, int], int], int]] = []
        for position, spec in enumerate(self.inputs):
            if spec.kind == "categorical":
                found.append((position, _code_table(spec).get, len(spec.categories)))
            elif spec.always_missing:
                found.append((position, lambda value, zero: zero, 0))
        return tuple(found)

    @cached_property
    def _ranges(self) -> tuple[Matrix, Matrix]:
        categorical = [spec.kind == "categorical" for spec in self.inputs]
        low = np.where(categorical, 0.0, [spec.low for spec in self.inputs])
        high = np.where(
            categorical, [len(spec.categories) - 1 for spec in self.inputs], [spec.high for spec in self.inputs]
        )
        return low.astype(np.float32), high.astype(np.float32)

    def _wrong_value(self, rows: Sequence[Sequence[Any]]) -> RequestError:
        for row in rows:
            for spec, value in zip(self.inputs, row, strict=True):
                wanted = _wanted(spec, value)
                if wanted:
                    return RequestError(422, f"{spec.name} must be {wanted}.", field=spec.name)
        return RequestError(422, "A value cannot be encoded.")


def describe_inputs(frame: pl.DataFrame, features: Sequence[str]) -> tuple[InputSpec, ...]:
    """The inputs of a model that is fitted on `frame`: text and booleans are categorical, numbers numeric.

    Give it the rows that the model is fitted on and no others. Raises `TrainingError` for a feature of another type.
    """
    return tuple(_describe(frame.get_column(name)) for name in features)


def encode_contract(contract: Contract) -> bytes:
    """The contract as JSON, two spaces a level: it is read by people too."""
    return msgspec.json.format(msgspec.json.encode(contract), indent=2)


def decode_contract(stored: bytes) -> Contract:
    """The inverse of `encode_contract`; `BundleError` when it is not a contract."""
    try:
        return msgspec.json.decode(stored, type=Contract)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle's contract.json is not a contract: {error}.") from error


def _describe(column: pl.Series) -> InputSpec:
    dtype = column.dtype
    if dtype == pl.Boolean:
        return InputSpec(column.name, "categorical", _FLAG)
    if _is_text(dtype):
        counts = column.cast(pl.String).drop_nulls().value_counts(name="rows")
        kept = counts.sort(["rows", column.name], descending=[True, False]).head(MAX_CATEGORIES)
        return InputSpec(column.name, "categorical", tuple(kept.get_column(column.name).sort()))
    if not (dtype.is_numeric() or dtype == pl.Null):
        raise TrainingError(
            f"The feature {column.name!r} is of type {dtype}, which a model cannot take.",
            todo="Make it a number, a text or a boolean in the feature view (a duration: its hours).",
        )
    with np.errstate(over="ignore"):
        values = _numbers(column).astype(np.float32)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return InputSpec(column.name, "numeric", always_missing=True)
    return InputSpec(column.name, "numeric", low=float(finite.min()), high=float(finite.max()))


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _numbers(column: pl.Series, _spec: InputSpec | None = None) -> NDArray[np.float64]:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise FeatureError(f"The feature {column.name!r} must be numeric, but the rows hold {column.dtype}.")
    return column.cast(pl.Float64).fill_null(nan).to_numpy()


def _zeros(column: pl.Series, _spec: InputSpec) -> NDArray[np.float64]:
    return np.zeros(len(column))


def _codes(column: pl.Series, spec: InputSpec) -> NDArray[Any]:
    table, unseen = _code_table(spec), len(spec.categories)
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


def _code_table(spec: InputSpec) -> dict[Any, int]:
    """Value → code. Text matches text; a boolean input also takes True and False (and so 1 and 0)."""
    codes: dict[Any, int] = {category: code for code, category in enumerate(spec.categories)}
    return {**codes, False: 0, True: 1} if spec.categories == _FLAG else codes


def _without_infinity(matrix: Matrix) -> Matrix:
    infinite = np.isinf(matrix)
    if infinite.any():
        matrix[infinite] = np.nan
    return matrix


def _wanted(spec: InputSpec, value: Any) -> str:
    """What `value` should have been, or nothing when it is fine."""
    try:
        if spec.kind == "categorical":
            hash(value)
        elif value is not None and not spec.always_missing:
            array("d", [value])
    except TypeError:
        return "a number" if spec.kind == "numeric" else "a text"
    except OverflowError:
        return "a number that fits a double"
    return ""
