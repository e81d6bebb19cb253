"""The OpenAPI document has every address that predicts, and its examples are answered."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI

from serving.description import describe, error_responses, operation

INFERENCE = {
    "/v1/late/predict",
    "/v2/models/late/infer",
    "/v2/models/late/versions/{version}/infer",
    "/v1/late/invocations",
    "/invocations",
}


def test_paths_are_added_to_the_document_and_follow_what_they_describe() -> None:
    app, told = FastAPI(), list[str]()
    app.get("/first")(lambda: None)
    describe(app, lambda: {path: {} for path in told})
    describe(app, lambda: {"/last": {}})
    assert set(app.openapi()["paths"]) == {"/first", "/last"}
    told.append("/second")
    assert set(app.openapi()["paths"]) == {"/first", "/second", "/last"}


def test_path_parameters_say_which_use_cases_there_are(client: httpx.Client) -> None:
    (parameter,) = client.get("/openapi.json").json()["paths"]["/v1/{use_case}/labels"]["post"]["parameters"]
    assert parameter["schema"]["enum"] == ["late"]


def test_an_operation_says_every_error() -> None:
    described = operation(name="n", summary="s", answer={"type": "object"}, body={"type": "object"}, examples={"a": 1})
    assert set(described["responses"]) == {"200", *error_responses()}
    assert described["requestBody"]["content"]["application/json"]["examples"] == {"a": {"value": 1}}


def test_the_document_has_the_protocols_addresses(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert paths.keys() >= INFERENCE
    assert paths.keys() >= {
        "/v2",
        "/v2/health/live",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/ping",
        "/version",
    }
    names = [one["operationId"] for operations in paths.values() for one in operations.values()]
    assert len(set(names)) == len(names)


def test_every_example_is_answered(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in INFERENCE:
        described = paths[path]["post"]
        version = [one["example"] for one in described.get("parameters", ())]
        examples = described["requestBody"]["content"]["application/json"]["examples"]
        assert set(examples) == {"features given", "by keys"}
        for example in examples.values():
            answer = client.post(path.replace("{version}", *version) if version else path, json=example["value"])
            assert answer.status_code == 200, (path, answer.text)
            assert _rows(answer.json()) == 1


def _rows(answer: dict[str, Any]) -> int:
    return len(answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"])
