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
from itertools import chain
from math import nan
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.candidates import ModelInput
from millrace.errors import BundleError, FeatureError, RequestError
from millrace.inputs import InputSpec, code_table, encode_column

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class OutputSpec:
    """One part of an answer: a number or, of `kind` `numbers`, one a category, from `low` to `high`; or one of the
    `categories` as a text."""

    name: str
    kind: Literal["number", "numbers", "text"]
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """Everything serving must know of a model besides its weights; stored as `contract.json` of the bundle.

    `engine` says what runs it (`onnx`; `skops` or `torch` when the export was not equal), `read_plan` is a `ReadPlan`
    as a dict, `trained_as_of` what the model could know, `lineage` how it came about (run, seed, lake versions, row
    ranges).
    `classes` name the outcomes that the model gives a probability each; without them it gives that of outcome 1.
    `outputs` are what it answers a row with. They follow from the classes, whatever is given, and are written down for
    those who read `contract.json`; one of before they were has them all the same.
    """

    use_case: str
    question: str
    candidate: str
    engine: Literal["onnx", "skops", "torch"]
    inputs: tuple[InputSpec, ...]
    trained_as_of: datetime
    read_plan: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", _outputs(self.classes))

    @cached_property
    def width(self) -> int:
        """Columns of the model's matrix."""
        return sum(spec.size for spec in self.inputs)

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names, in the model's order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def model_inputs(self) -> tuple[ModelInput, ...]:
        """The inputs as a candidate's builder receives them."""
        return tuple(ModelInput(spec.name, spec.kind, spec.categories, spec.size) for spec in self.inputs)

    def encode_frame(self, frame: pl.DataFrame) -> Matrix:
        """The model's matrix (rows, width) of a frame that has the inputs as columns, in any order, among others.

        Numeric: float32, NaN when null, NaN or infinite in float32. Categorical: the position in `categories`;
        `len(categories)` when null or unseen. Raises `FeatureError` for a missing column, text where numbers belong or
        an array of another length.
        """
        missing = [name for name in self.names if name not in frame.columns]
        if missing:
            raise FeatureError(
                f"The model {self.candidate!r} takes {', '.join(missing)}, which the rows do not have.",
                looked=f"They have {', '.join(frame.columns)}.",
            )
        matrix = np.empty((frame.height, self.width), dtype=np.float32, order="F")
        start = 0
        for spec in self.inputs:
            with np.errstate(over="ignore"):
                matrix[:, start : start + spec.size] = encode_column(frame.get_column(spec.name), spec)
            start += spec.size
        return _without_infinity(np.ascontiguousarray(matrix))

    def encode_rows(self, rows: Sequence[Sequence[Any]]) -> Matrix:
        """The model's matrix (rows, width) of plain values, each row in the inputs' order; equal to `encode_frame`.

        Raises `RequestError` (422, naming the input) for a value of the wrong type or a row of the wrong length.
        """
        width = len(self.inputs)
        wrong = set(map(len, rows)) - {width}
        if wrong:
            raise RequestError(422, f"A row has {min(wrong)} values; the model takes {width}.")
        flat: list[Any] = list(chain.from_iterable(rows))
        try:
            for position, code_of, unseen in self._encoders:  # a column is every width-th value
                flat[position::width] = [code_of(value, unseen) for value in flat[position::width]]
            numbers = _floats(_flattened(flat, self._arrays, width) if self._arrays else flat)
        except (TypeError, OverflowError) as error:
            raise self._wrong_value(rows) from error
        return _without_infinity(np.frombuffer(numbers, dtype=np.float32).reshape(len(rows), self.width))

    def outside(self, matrix: Matrix) -> NDArray[np.bool_]:
        """Which values (rows, width) training never saw: numbers beyond [low, high], categories missing or unseen.

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
                found.append((position, code_table(spec).get, len(spec.categories)))
            elif spec.always_missing and spec.size == 1:
                found.append((position, lambda value, zero: zero, 0))
        return tuple(found)

    @cached_property
    def _arrays(self) -> tuple[tuple[int, InputSpec], ...]:
        """(position, input) of each array-valued one, the last first."""
        return tuple((position, spec) for position, spec in enumerate(self.inputs) if spec.size > 1)[::-1]

    @cached_property
    def _ranges(self) -> tuple[Matrix, Matrix]:
        bounds = [
            (0, len(one.categories) - 1) if one.kind == "categorical" else (one.low, one.high) for one in self.inputs
        ]
        sizes = [spec.size for spec in self.inputs]
        low, high = np.repeat(np.array(bounds, dtype=np.float32).reshape(-1, 2), sizes, axis=0).T
        return low, high

    def _wrong_value(self, rows: Sequence[Sequence[Any]]) -> RequestError:
        for row in rows:
            for spec, value in zip(self.inputs, row, strict=True):
                wanted = _wanted(spec, value)
                if wanted:
                    return RequestError(422, f"{spec.name} must be {wanted}.", field=spec.name)
        return RequestError(422, "A value cannot be encoded.")


def _outputs(classes: tuple[str, ...]) -> tuple[OutputSpec, ...]:
    score = OutputSpec("score", "number", 0.0, 1.0)
    if not classes:
        return (score,)
    return OutputSpec("label", "text", categories=classes), score, OutputSpec("scores", "numbers", 0.0, 1.0, classes)


def encode_contract(contract: Contract) -> bytes:
    """The contract as JSON, two spaces a level: it is read by people too."""
    return msgspec.json.format(msgspec.json.encode(contract), indent=2)


def decode_contract(stored: bytes) -> Contract:
    """The inverse of `encode_contract`; `BundleError` when it is not a contract."""
    try:
        return msgspec.json.decode(stored, type=Contract)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"The bundle's contract.json is not a contract: {error}.") from error


def _floats(values: Sequence[Any]) -> array[float]:
    """The values as float32; None is NaN. `TypeError` and `OverflowError` for what is no number."""
    try:
        return array("f", values)
    except TypeError:  # with a None among them the first attempt is lost, which is cheaper than looking for one
        return array("f", [nan if value is None else value for value in values])


def _flattened(values: Sequence[Any], arrays: Sequence[tuple[int, InputSpec]], width: int) -> list[Any]:
    """Rows of `width` values, one after the other, with each array in place of itself.

    `TypeError` for one that is none of its length.
    """
    found: list[Any] = []
    for start in range(0, len(values), width):
        row = list(values[start : start + width])
        for position, spec in arrays:
            given = [None] * spec.size if row[position] is None else row[position]
            if not isinstance(given, (list, tuple)) or len(given) != spec.size:
                raise TypeError(f"{spec.name} must be an array of {spec.size} numbers")
            row[position : position + 1] = [0] * spec.size if spec.always_missing else given
        found += row
    return found


def _without_infinity(matrix: Matrix) -> Matrix:
    infinite = np.isinf(matrix)
    if infinite.any():
        matrix[infinite] = np.nan
    return matrix


def _wanted(spec: InputSpec, value: Any) -> str:
    """What `value` should have been, or nothing when it is fine."""
    wanted = f"an array of {spec.size} numbers" if spec.size > 1 else "a number" if spec.kind == "numeric" else "a text"
    try:
        if spec.kind == "categorical":
            hash(value)
        elif spec.size > 1:
            _floats(_flattened([value], ((0, spec),), 1))
        elif value is not None and not spec.always_missing:
            array("d", [value])
    except TypeError:
        return wanted
    except OverflowError:
        return "a number that fits a double"
    return ""
