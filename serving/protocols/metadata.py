"""What a model takes and answers, as the Open Inference Protocol says it: names, datatypes and shapes of tensors.

This module knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from features.plan import ReadPlan
from millrace.contract import Contract
from serving.online.bodies import ColumnType, Numbers
from serving.online.champion import Serving

_DATATYPES = {"number": "FP64", "integer": "INT64", "flag": "BOOL", "text": "BYTES", "instant": "BYTES", "key": "BYTES"}


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a model: `size` is 0 for one value a row, else how many."""

    name: str
    datatype: str
    size: int = 0

    def shape(self, rows: int) -> list[int]:
        """The tensor's shape; -1 rows are any number."""
        return [rows, self.size] if self.size else [rows]


def server_metadata() -> dict[str, Any]:
    """What `/v2` answers."""
    return {"name": "millrace", "version": version("millrace"), "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, served: Serving) -> dict[str, Any]:
    """What `/v2/models/{name}` answers. The inputs are all columns that a row may hold, of which a request gives the
    keys and request inputs, or features, as the contract route says under `needs`."""
    contract = served.model.contract
    singles = _single_precision(contract)
    inputs = [
        {"name": column, "datatype": "FP32" if column in singles else datatype_of(kind), "shape": _shape(kind)}
        for column, kind in served.model.columns.items()
    ]
    outputs = [
        {"name": one.name, "datatype": one.datatype, "shape": one.shape(-1)} for one in outputs_of(contract).values()
    ]
    return {
        "name": name,
        "versions": [str(served.version)],
        "platform": f"millrace_{contract.engine}",
        "inputs": inputs,
        "outputs": outputs,
    }


def outputs_of(contract: Contract) -> dict[str, Output]:
    """The outputs by name, in order: the score (of the label, when the model has classes), all classes' scores, the
    prediction's id and its flags, separated by commas."""
    classes = len(contract.classes)
    found = [Output("label", "BYTES"), Output("score", "FP64"), Output("scores", "FP64", classes)] if classes else []
    common = [Output("id", "BYTES"), Output("flags", "BYTES")]
    return {one.name: one for one in [*(found or [Output("score", "FP64")]), *common]}


def datatype_of(kind: ColumnType) -> str:
    """The datatype that loses nothing of a column; others are taken too."""
    return _DATATYPES["number" if isinstance(kind, Numbers) else kind]


def _single_precision(contract: Contract) -> frozenset[str]:
    """The columns that the read plan has as float32. A model without a plan takes FP32 too, but its log keeps what is
    given, and offline rows are doubles."""
    if not contract.read_plan:
        return frozenset()
    plan = ReadPlan.from_dict(contract.read_plan)
    return frozenset(name for name, dtype in (plan.dtypes_of_all | plan.row_types).items() if dtype == "Float32")


def _shape(kind: ColumnType) -> list[int]:
    return [-1, kind.size] if isinstance(kind, Numbers) else [-1]
