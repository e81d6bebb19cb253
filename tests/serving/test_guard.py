"""The door: without the key only two addresses answer, and every answer is safe to show in a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from millrace.errors import MillraceError
from millrace.settings import Settings
from serving.access import COOKIE
from serving.guard import Guard
from serving.keys import api_key

from .conftest import FakeReader

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
HEADERS = {
    "content-security-policy",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "cache-control",
    "x-request-id",
}


def every_path(app: Guard) -> list[str]:
    """Every route of the application, filled in, and the addresses around them."""
    paths = set(_paths(app.app))
    filled = {path.replace("{use_case}", "late").replace("{name}", "style.css") for path in paths}
    around = {"/v1/late/predict", "/docs", "/nowhere", "/health", "/health/live/", "/health/liveness", "//health/live"}
    return sorted(filled | around | {"/health/%6cive", "/health/ready;x", "/HEALTH/LIVE"})


def _paths(router: Any) -> Iterator[str]:
    """The paths of a router's routes, and of the routers that it includes."""
    for route in router.routes:
        if isinstance(route, Route):
            yield route.path
        else:
            yield from _paths(route.original_router)


def test_every_route_and_method_without_a_key_is_401_but_live_and_ready(app: Guard, stranger: httpx.Client) -> None:
    paths = every_path(app)
    assert {"/metrics", "/v1/models", "/openapi.json", "/", "/sign-out"} <= set(paths)
    for path in paths:
        for method in METHODS:
            answer = stranger.request(method, path)
            is_open = path in ("/health/live", "/health/ready") and method in ("GET", "HEAD")
            assert (answer.status_code == 401) != is_open, (method, path, answer.status_code)


@pytest.mark.parametrize("key", ["", "x", "Bearer x", "é".encode().decode("latin-1")])
def test_a_wrong_key_is_401_and_not_repeated(stranger: httpx.Client, key: str) -> None:
    answer = stranger.get("/v1/models", headers=[(b"X-API-Key", key.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.json()["error"]["field"] == "X-API-Key"


def test_a_session_does_not_open_the_api(stranger: httpx.Client, settings: Settings) -> None:
    signed_in = stranger.post("/sign-in", data={"key": api_key(settings)}, headers={"Accept": "text/html"})
    assert stranger.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert COOKIE in signed_in.cookies
    assert stranger.get("/v1/models").status_code == 401
    assert stranger.post("/v1/late/predict", json={"rows": []}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example"])
def test_an_odd_host_is_refused(client: httpx.Client, host: str) -> None:
    answer = client.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 400
    assert "evil" not in answer.text


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "[::1]:8100"])
def test_loopback_by_any_name_is_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/health/live", headers={"Host": host}).status_code == 200


def test_every_answer_has_the_security_headers(client: httpx.Client, stranger: httpx.Client) -> None:
    answers = [client.get(path) for path in ("/v1/models", "/nowhere", "/metrics", "/health/live")]
    answers += [client.post("/v1/late/predict", content=b"{"), stranger.get("/", headers={"Accept": "text/html"})]
    for answer in answers:
        assert set(answer.headers) >= HEADERS
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_sane_request_id_is_kept_and_another_replaced(client: httpx.Client) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    odd = client.get("/health/live", headers={"X-Request-ID": "<script>"}).headers["x-request-id"]
    assert len(odd) == 16


def test_an_unforeseen_error_is_500_in_the_one_shape_and_tells_nothing(
    client: httpx.Client, reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def secret(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(reader, "read", secret)
    answer = client.post("/v1/late/predict", json={"rows": [{"carrier": "UA", "distance": 1}]})
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "request_id"}
    assert "secret" not in answer.text
    assert client.get("/health/live").status_code == 200


def test_where_we_looked_is_not_told_to_clients(
    client: httpx.Client, reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MillraceError("It broke.", looked="/a/private/path")

    monkeypatch.setattr(reader, "read", fail)
    answer = client.post("/v1/late/predict", json={"rows": [{"carrier": "UA", "distance": 1}]})
    assert answer.status_code == 500
    assert answer.json()["error"]["what"] == "It broke."
    assert "private" not in answer.text


def test_requests_are_counted_by_route_and_status(client: httpx.Client) -> None:
    client.get("/v1/models")
    client.get("/nowhere")
    client.post("/v1/late/predict", content=json.dumps({"rows": [{"delay": 1, "far": 1}]}))
    text = client.get("/metrics").text
    assert 'millrace_requests_total{route="/v1/models",status="200"} 1.0' in text
    assert 'millrace_requests_total{route="other",status="404"} 1.0' in text
    assert 'millrace_requests_total{route="/v1/late/predict",status="200"} 1.0' in text
    assert 'millrace_predictions_total{use_case="late",version="1"} 1.0' in text
    assert 'millrace_champion_version{use_case="late"} 1.0' in text


def test_a_websocket_is_refused(app: Guard) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    asyncio.run(app({"type": "websocket", "path": "/health/live", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
