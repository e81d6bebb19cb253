"""What a row of a request may hold and what it must, told by a model's contract and read plan.

A row is found by entity keys and request inputs, or gives features itself, or both; without a plan it gives them all.
The population's key columns may come along, so that a label can find its prediction later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.plan import ReadPlan
from millrace.contract import Contract
from millrace.errors import BundleError
from millrace.inputs import InputSpec
from serving.online.bodies import ColumnType, Numbers
from serving.online.decoder import Need

_TYPES: Mapping[str, ColumnType] = {
    "Float32": "number",
    "Float64": "number",
    "Int32": "integer",
    "Int64": "integer",
    "String": "text",
    "Bool": "flag",
    "UnixTimestamp": "instant",
}
"""Feast's types as they are written in a plan."""


def columns_and_needs(
    contract: Contract, plan: ReadPlan | None, key: Sequence[str]
) -> tuple[dict[str, ColumnType], tuple[Need, ...]]:
    """The columns that a row may hold with their types, and what each row must have; `key` is the population's.

    Raises `BundleError` for a plan whose request inputs are of a type that JSON cannot bring.
    """
    columns: dict[str, ColumnType] = dict.fromkeys(key, "key")
    if plan is None:
        columns |= {spec.name: _feature_type(spec) for spec in contract.inputs}
        return columns, tuple(Need(name, frozenset({name})) for name in contract.names)
    columns |= {name: _request_type(name, dtype) for name, dtype in plan.dtypes_of_all.items()}
    columns |= {spec.name: _feature_type(spec) for spec in contract.inputs}
    columns |= {name: _request_type(name, dtype) for name, dtype in plan.row_types.items()}
    return columns, tuple(Need(name, plan.dependents(name)) for name in plan.row_types)


def _request_type(name: str, dtype: str) -> ColumnType:
    if dtype not in _TYPES:
        raise BundleError(f"The request's column {name!r} is of type {dtype}, which a request cannot bring.")
    return _TYPES[dtype]


def _feature_type(spec: InputSpec) -> ColumnType:
    if spec.kind == "numeric":
        return Numbers(spec.size) if spec.size > 1 else "number"
    return "flag" if spec.categories == ("false", "true") else "text"
