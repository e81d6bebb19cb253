"""The ordinary routes: what serves, what it takes, and their errors."""

from __future__ import annotations

import httpx


def test_live_and_ready_answer_anybody(stranger: httpx.Client) -> None:
    assert stranger.get("/health/live").json() == {"live": True}
    ready = stranger.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "draining": False,
        "models": {"late": {"version": 1, "problem": "", "degraded": ""}},
    }


def test_models_are_listed_with_the_one_that_serves(client: httpx.Client) -> None:
    (found,) = client.get("/v1/models").json()["models"]
    assert (found["use_case"], found["serving"]) == ("late", 1)
    assert [(one["version"], one["status"]) for one in found["versions"]] == [(1, "champion")]


def test_the_contract_says_what_a_row_may_hold_and_must(client: httpx.Client) -> None:
    contract = client.get("/v1/late/contract").json()
    assert contract["columns"] == {
        "carrier": "text",
        "trip": "key",
        "delay": "number",
        "far": "number",
        "distance": "number",
    }
    assert contract["needs"] == [
        {"column": "carrier", "or_all_of": ["delay"]},
        {"column": "distance", "or_all_of": ["far"]},
    ]
    assert [spec["name"] for spec in contract["inputs"]] == ["delay", "far"]


def test_an_unknown_use_case_or_address_is_404_in_the_one_shape(client: httpx.Client) -> None:
    for path in ("/v1/early/contract", "/nowhere", "/v1/..%2f..%2fetc/contract"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"status", "what", "field", "todo"}


def test_another_method_is_405_in_the_one_shape(client: httpx.Client) -> None:
    answer = client.delete("/v1/models")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert answer.json()["error"]["status"] == 405


def test_openapi_describes_the_routes_with_a_key_only(client: httpx.Client, stranger: httpx.Client) -> None:
    assert "/v1/{use_case}/contract" in client.get("/openapi.json").json()["paths"]
    assert stranger.get("/openapi.json").status_code == 401
