"""What OpenAPI says of the callables that answer ahead of FastAPI's router, with examples from the model that serves.

`describe` adds paths to an application's document; the rest are the parts that such paths are written with: an
operation, the answers of our errors, rows that the champion really takes. This module knows nothing of any protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from serving.online.bodies import ColumnType, Numbers
from serving.online.champion import Serving

Paths = Mapping[str, Mapping[str, Any]]
"""OpenAPI's paths: for each the operations by method, in lower case."""
_WHAT = {
    400: "The body is not what it says it is, or the host name is not ours.",
    401: "It needs a key, or this is not one.",
    404: "There is no such use case, model or version.",
    405: "It takes another method.",
    413: "Too many rows, or too large a body.",
    415: "The body is of another type, or compressed.",
    422: "A member or a value is missing or wrong; `field` names it.",
    429: "A quota is used up; Retry-After says when to come back.",
    503: "It cannot be answered at the moment; Retry-After says when to come back.",
}
_ERROR = {
    "type": "object",
    "required": ["status", "what", "field", "todo"],
    "properties": {
        "status": {"type": "integer"},
        "what": {"type": "string"},
        "field": {"type": "string", "description": "The place of what is wrong, or empty."},
        "todo": {"type": "string"},
    },
}
_PLAIN: Mapping[str, Any] = {
    "number": 0.5,
    "integer": 1,
    "text": "A",
    "flag": True,
    "instant": "2026-01-01T00:00:00Z",
    "key": "A1",
}


def describe(app: FastAPI, paths: Callable[[], Paths]) -> None:
    """Let `app`'s OpenAPI document also have these paths; asked for anew each time, since champions change."""
    before = app.openapi

    def openapi() -> dict[str, Any]:
        document = before()
        return {**document, "paths": {**document["paths"], **paths()}}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def name_parameters(app: FastAPI, values: Mapping[str, Sequence[str]]) -> None:
    """Let `app`'s OpenAPI document say which values the path parameters of these names take."""
    before = app.openapi

    def openapi() -> dict[str, Any]:
        document = before()
        for operations in document["paths"].values():
            for described in operations.values():
                for parameter in described.get("parameters", ()):
                    if parameter["in"] == "path" and parameter["name"] in values:
                        parameter["schema"] = {"type": "string", "enum": list(values[parameter["name"]])}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def operation(
    *,
    name: str,
    summary: str,
    answer: Mapping[str, Any],
    body: Mapping[str, Any] | None = None,
    examples: Mapping[str, Any] | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
    as_text: bool = False,
) -> dict[str, Any]:
    """One operation: `answer` and `body` are JSON schemas, `examples` whole bodies by their names, `as_text` says that
    errors are texts (under `/v2`)."""
    described: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            **error_responses(as_text=as_text),
        },
    }
    if parameters:
        described["parameters"] = list(parameters)
    if body is not None:
        content: dict[str, Any] = {"schema": body}
        if examples:
            content["examples"] = {title: {"value": value} for title, value in examples.items()}
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    return described


def error_responses(*statuses: int, as_text: bool = False) -> dict[int | str, dict[str, Any]]:
    """The answers with these error statuses, in our one shape; by default all that a prediction may have."""
    members = {"error": {"type": "string"}, "detail": _ERROR} if as_text else {"error": _ERROR}
    schema = {
        "type": "object",
        "required": [*members, "request_id"],
        "properties": {**members, "request_id": {"type": "string"}},
    }
    content = {"application/json": {"schema": schema}}
    return {str(status): {"description": _WHAT[status], "content": content} for status in statuses or _WHAT}


def example_rows(served: Serving | None) -> dict[str, list[dict[str, Any]]]:
    """Rows that the model takes, by what they bring: `features given` are the model's inputs, each as it was most often
    in training, `by keys` (of a model that reads features) what they are read and computed from. Empty while no model
    serves."""
    if served is None:
        return {}
    model = served.model
    given = {spec.name: _default(spec.default, model.columns[spec.name]) for spec in model.contract.inputs}
    found = {"features given": [given]}
    needed = [need.column for need in model.needs]
    if model.contract.read_plan and needed:
        found["by keys"] = [{name: _plain(model.columns[name]) for name in needed}]
    return found


def _default(default: float | str | None, kind: ColumnType) -> Any:
    if kind == "flag":
        return default == "true"
    return [default] * kind.size if isinstance(kind, Numbers) else default


def _plain(kind: ColumnType) -> Any:
    return [0.5] * kind.size if isinstance(kind, Numbers) else _PLAIN[kind]
