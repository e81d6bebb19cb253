"""What OpenAPI says of the inference addresses of the other protocols, with bodies that the champions really take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.description import Paths, example_rows, operation
from serving.online.bodies import Numbers
from serving.online.champion import Holder, Serving
from serving.protocols.metadata import datatype_of, outputs_of
from serving.protocols.mlflow_scoring import FORMS
from serving.protocols.routes import VERSIONED

_PARAMETERS = {"type": "object"}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
        "parameters": _PARAMETERS,
    },
    "additionalProperties": False,
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": ["string", "null"]},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
                "additionalProperties": False,
            },
        },
        "parameters": {
            "type": "object",
            "properties": {
                "at": {"type": ["string", "null"], "format": "date-time"},
                "binary_data_output": {"type": "boolean"},
            },
        },
    },
    "additionalProperties": False,
}
_INFERRED = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_ROWS = {"type": "array", "items": {"type": "object"}}
_COLUMNS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "array", "items": {}}}
_FORMS: Mapping[str, Any] = {
    "dataframe_split": {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "data": {"type": "array", "items": {"type": "array", "items": {}}},
            "index": {},
        },
        "additionalProperties": False,
    },
    "dataframe_records": _ROWS,
    "instances": {"anyOf": [_ROWS, _COLUMNS]},
    "inputs": {"anyOf": [_ROWS, _COLUMNS]},
}
_SCORING = {
    "type": "object",
    "properties": {**_FORMS, "params": _PARAMETERS},
    "additionalProperties": False,
    "oneOf": [{"required": [form]} for form in FORMS],
}
_SCORED = {
    "type": "object",
    "required": ["predictions"],
    "properties": {
        "predictions": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": {"type": "number"}},
        }
    },
}


def protocol_paths(holders: Mapping[str, Holder]) -> Paths:
    """The inference addresses of every use case."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, holder in holders.items():
        examples = example_rows(holder.served)
        found |= _open_inference(name, holder.served, examples)
        found |= _mlflow(f"/v1/{name}/invocations", f"mlflow_{name}", examples)
    if len(holders) == 1:
        found |= _mlflow("/invocations", "mlflow", examples)
    return found


def _open_inference(name: str, served: Serving | None, examples: Mapping[str, Any]) -> dict[str, Any]:
    version = str(served.version) if served else "1"
    asked = {title: _tensors(rows, served) for title, rows in examples.items() if served}
    parameter = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}, "example": version}
    told: dict[str, Any] = {"answer": _INFERRED, "body": _INFER, "examples": asked, "as_text": True}
    summary = f"Predict with {name} in the Open Inference Protocol v2."
    return {
        f"/v2/models/{name}/infer": {"post": operation(name=f"v2_infer_{name}", summary=summary, **told)},
        VERSIONED.replace("{name}", name): {
            "post": operation(name=f"v2_infer_{name}_version", summary=summary, parameters=[parameter], **told)
        },
    }


def _mlflow(path: str, name: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    bodies = {title: {"dataframe_records": rows} for title, rows in examples.items()}
    summary = "Predict in MLflow's scoring protocol."
    return {path: {"post": operation(name=name, summary=summary, answer=_SCORED, body=_SCORING, examples=bodies)}}


def _tensors(rows: Sequence[Mapping[str, Any]], served: Serving) -> dict[str, Any]:
    """Rows as a body of tensors in JSON that asks for the first output and the ids."""
    columns = served.model.columns
    inputs = []
    for name in rows[0]:
        kind = columns[name]
        shape = [len(rows), kind.size] if isinstance(kind, Numbers) else [len(rows)]
        data = [row[name] for row in rows]
        inputs.append({"name": name, "shape": shape, "datatype": datatype_of(kind), "data": data})
    first = next(iter(outputs_of(served.model.contract)))
    return {"id": "example-1", "inputs": inputs, "outputs": [{"name": first}, {"name": "id"}]}
