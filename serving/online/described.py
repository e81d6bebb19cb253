"""What OpenAPI says of the predict addresses: rows of the columns that the champion takes, with examples that work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.description import Paths, example_rows, operation
from serving.online.bodies import MAX_TEXT, ColumnType, Numbers
from serving.online.champion import Holder, Serving

_NUMBER = {"type": "number", "minimum": -3.4028234e38, "maximum": 3.4028234e38}
_INTEGER = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_TEXT = {"type": "string", "maxLength": MAX_TEXT}
_TIME = {"type": "string", "format": "date-time"}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "number": _NUMBER,
    "integer": _INTEGER,
    "text": _TEXT,
    "flag": {"type": "boolean"},
    "instant": _TIME,
    "key": {"anyOf": [_INTEGER, _TEXT]},
}
_ROW_ANSWER = {
    "type": "object",
    "required": ["id", "score", "flags"],
    "properties": {
        "id": {"type": "string", "description": "The prediction's name, for its label."},
        "score": {"type": "number", "description": "The probability, of the most probable class where there are some."},
        "label": {"type": "string", "description": "The most probable class, of a model that has classes."},
        "flags": {
            "type": "array",
            "items": {"type": "string"},
            "description": "`missing:VIEW`, `stale:VIEW`, `default:VIEW`: what the features lacked.",
        },
        "features": {"type": "object", "description": "The values used, when they were asked for."},
        "scores": {"type": "object", "description": "Each class's probability, when they were asked for."},
    },
}
_ANSWER = {
    "type": "object",
    "required": ["use_case", "version", "predictions"],
    "properties": {
        "use_case": {"type": "string"},
        "version": {"type": "integer"},
        "predictions": {"type": "array", "items": _ROW_ANSWER},
    },
}


def predict_paths(holders: Mapping[str, Holder], *, max_rows: int) -> Paths:
    """The predict address of every use case."""
    return {f"/v1/{name}/predict": {"post": _predict(name, one.served, max_rows)} for name, one in holders.items()}


def _predict(name: str, served: Serving | None, max_rows: int) -> dict[str, Any]:
    examples = {title: {"rows": rows} for title, rows in example_rows(served).items()}
    summary = f"Predict with {name}: rows by entity keys, whose features are read, or with features given."
    body = _body(served, max_rows)
    return operation(name=f"predict_{name}", summary=summary, answer=_ANSWER, body=body, examples=examples)


def _body(served: Serving | None, max_rows: int) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "object"}
    flags: dict[str, Any] = {"features": {"type": "boolean", "description": "Answer the values used, too."}}
    if served is not None:
        row |= {"properties": {column: _kind(kind) for column, kind in served.model.columns.items()}}
        row |= {"additionalProperties": False}
        if served.model.contract.classes:
            flags["scores"] = {"type": "boolean", "description": "Answer the probability of every class."}
    at = {"anyOf": [_TIME, {"type": "null"}], "description": "The moment to predict at; now, if not given."}
    return {
        "type": "object",
        "required": ["rows"],
        "properties": {"rows": {"type": "array", "items": row, "maxItems": max_rows}, "at": at, **flags},
        "additionalProperties": False,
    }


def _kind(kind: ColumnType) -> dict[str, Any]:
    if isinstance(kind, Numbers):
        items = {"anyOf": [_NUMBER, {"type": "null"}]}
        one: Mapping[str, Any] = {"type": "array", "items": items, "minItems": kind.size, "maxItems": kind.size}
    else:
        one = _KINDS[kind]
    return {"anyOf": [one, {"type": "null"}]}
