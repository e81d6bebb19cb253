"""The door: without the key only two addresses answer, and every answer is safe to show in a browser."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.routing import Route

from millrace.api_keys import By, Quota, create_key, revoke_key
from millrace.db import AuditRow, Database
from millrace.errors import MillraceError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.access import COOKIE
from serving.app import create_app
from serving.guard import Guard
from serving.keys import api_key

from .conftest import NOW, FakeReader, Promote, client_of

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
OPEN = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
ODD = (
    "//health/live", "/health/live/", "/health/./live", "/health/x/../live", "/health/%6cive", "/health%2flive",
    "/%2e/health/live", "/%2e%2e/health/live", "/health/live;x", "/health/live%00", "/health/live%20",
    "/health/live%0a", "/HEALTH/LIVE", "/Health/Live", "/health/liveness", "/health", "/health/", "/v2/health",
    "/v2//health/live", "/v2/health/live/", "/v2/health/live/../../models/late", "/v2/models/system-health",
    "/v2/models/system-health/infer", "/v2/models/late", "/v2/models/late/infer", "/v1/late/predict",
    "/v1/late%2fpredict", "/docs", "/redoc", "/nowhere", "/invocations", "/ping", "/version",
    "/..%2f..%2fetc/passwd", "/sign-in%2f", "/static/..%2fpage.py",
)  # fmt: skip
"""Addresses around the open ones, and others that a stranger tries."""
HEADERS = {
    "content-security-policy",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "cache-control",
    "x-request-id",
}


@pytest.fixture
def issued(db: Database) -> dict[str, str]:
    """A key for each scope, one with a quota, two that have ended, by name; the application starts with them."""
    by, hour = By("ada", NOW), timedelta(hours=1)
    made = {scope: create_key(db, scope, by=by, scopes=[scope]).key for scope in ("predict", "label", "admin")}
    made["slow"] = create_key(db, "slow", by=by, quota=Quota(requests_per_second=1)).key
    made["ended"] = create_key(db, "ended", by=By("ada", NOW - 2 * hour), expires=hour).key
    made["revoked"] = create_key(db, "revoked", by=by).key
    revoke_key(db, "revoked", by=by)
    return made


@pytest.fixture
def app(settings: Settings, use_case: UseCase, reader: FakeReader, promote: Promote, issued: dict[str, str]) -> Guard:
    promote()
    return create_app(settings, [use_case], clock=lambda: NOW, reader_of=lambda *_: reader)


def every_path(app: Guard) -> list[str]:
    """Every route of the application and every direct callable, filled in."""
    paths = {*_paths(app.app), *app.direct}
    values = {"use_case": "late", "name": "style.css", "view": "carrier_view"}
    return sorted(re.sub(r"{(\w+)}", lambda found: values.get(found[1], "x"), path) for path in paths)


def _paths(router: Any) -> Iterator[str]:
    """The paths of a router's routes, and of the routers that it includes."""
    for route in router.routes:
        if isinstance(route, Route):
            yield route.path
        else:
            yield from _paths(route.original_router)


def asked(client: httpx.Client, line: str, *headers: str, body: str = "") -> tuple[int, str]:
    """The status and text of the answer to exactly this request line and these headers."""
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=30) as connection:
        text = "\r\n".join((line, *(headers or ("Host: localhost",)), "Connection: close", "", body))
        connection.sendall(text.encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode("latin-1")
    return int(answer.split(" ", 2)[1]), answer


def test_every_route_and_method_without_a_key_is_401_but_the_open_ones(app: Guard, stranger: httpx.Client) -> None:
    paths = every_path(app)
    assert {"/metrics", "/v1/models", "/openapi.json", "/", "/sign-out", "/v1/late/predict"} <= set(paths)
    for path in sorted({*paths, *OPEN}):
        for method in METHODS:
            answer = stranger.request(method, path)
            is_open = path in OPEN and method in ("GET", "HEAD")
            assert (answer.status_code == 401) != is_open, (method, path, answer.status_code)


def test_no_other_spelling_of_the_open_addresses_is_open(stranger: httpx.Client) -> None:
    for path in ODD:
        for method in ("GET", "HEAD", "POST"):
            assert asked(stranger, f"{method} {path} HTTP/1.1")[0] == 401, (method, path)


@pytest.mark.parametrize("method", ["get", "Get", "GET\t", "CONNECT", "M-SEARCH", "GETX"])
def test_no_other_spelling_of_the_method_is_open(stranger: httpx.Client, method: str) -> None:
    assert asked(stranger, f"{method} /health/live HTTP/1.1")[0] in (400, 401)


@pytest.mark.parametrize("target", ["/v1/models", "/metrics", "//health/live", "/health/live/", "/v1/late/predict"])
def test_an_absolute_target_needs_a_key_as_its_path_does(stranger: httpx.Client, target: str) -> None:
    assert asked(stranger, f"GET http://localhost{target} HTTP/1.1")[0] == 401
    assert asked(stranger, "GET http://localhost/health/live HTTP/1.1")[0] == 200


def test_a_query_opens_nothing_and_closes_nothing(stranger: httpx.Client) -> None:
    assert stranger.get("/health/live?x=/v1/models").status_code == 200
    assert stranger.get("/v1/models?/health/live").status_code == 401


def test_a_websocket_is_refused_on_every_path(app: Guard, stranger: httpx.Client) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    paths = [*every_path(app), *OPEN]
    for path in paths:
        asyncio.run(app({"type": "websocket", "path": path, "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}] * len(paths)
    upgrade = ("Host: localhost", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    assert asked(stranger, "GET /v1/models HTTP/1.1", *upgrade)[0] == 401


SCOPES = [
    ("POST", "/v1/late/predict", "predict"), ("POST", "/v2/models/late/infer", "predict"),
    ("POST", "/v2/models/late/versions/1/infer", "predict"), ("POST", "/invocations", "predict"),
    ("GET", "/v1/models", "predict"), ("GET", "/v1/late/contract", "predict"), ("GET", "/v2/models/late", "predict"),
    ("HEAD", "/v1/models", "predict"), ("GET", "/openapi.json", "predict"),
    ("POST", "/v1/late/labels", "label"), ("POST", "/v1/late/features/carrier_view", "label"),
    ("GET", "/metrics", "admin"), ("POST", "/v1/late/reload", "admin"), ("GET", "/", "admin"),
    ("POST", "/sign-out", "admin"), ("GET", "/nowhere", "admin"), ("DELETE", "/v1/late/predict", "admin"),
    ("GET", "/v1/late/labels", "admin"), ("PUT", "/v1/models", "admin"), ("POST", "/v1/models", "admin"),
    ("GET", "/v1/late/predict/", "admin"), ("POST", "/v1/a/b/predict", "admin"), ("POST", "/V1/late/predict", "admin"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "scope"), SCOPES)
def test_a_key_opens_what_its_scope_says(
    stranger: httpx.Client, issued: dict[str, str], method: str, path: str, scope: str
) -> None:
    for given in ("predict", "label", "admin"):
        answer = stranger.request(method, path, headers={"X-API-Key": issued[given]})
        opens = given in (scope, "admin")
        assert (answer.status_code not in (401, 403)) == opens, (given, answer.status_code)
        assert opens or answer.status_code == 403


def test_a_refusal_names_the_scope_in_the_one_shape(stranger: httpx.Client, issued: dict[str, str]) -> None:
    error = stranger.get("/metrics", headers={"X-API-Key": issued["label"]}).json()["error"]
    assert (error["status"], error["field"]) == (403, "X-API-Key")
    assert "admin" in error["todo"]


def test_health_is_open_whatever_key_comes_with_it(stranger: httpx.Client, issued: dict[str, str]) -> None:
    for key in (issued["label"], issued["revoked"], "wrong"):
        assert stranger.get("/health/live", headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize("name", ["ended", "revoked"])
def test_a_key_that_has_ended_is_401(stranger: httpx.Client, issued: dict[str, str], name: str) -> None:
    assert stranger.get("/v1/models", headers={"X-API-Key": issued[name]}).status_code == 401


def test_a_key_made_and_revoked_while_the_server_runs_needs_no_restart(stranger: httpx.Client, db: Database) -> None:
    key = create_key(db, "late-comer", by=By("ada", NOW)).key
    while stranger.get("/v1/models", headers={"X-API-Key": key}).status_code != 200:
        time.sleep(0.05)
    revoke_key(db, "late-comer", by=By("ada", NOW))
    while stranger.get("/v1/models", headers={"X-API-Key": key}).status_code == 200:
        time.sleep(0.05)


def test_a_key_comes_as_a_header_a_bearer_token_or_a_password(stranger: httpx.Client, issued: dict[str, str]) -> None:
    key = issued["predict"]
    assert stranger.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert stranger.get("/v1/models", headers={"Authorization": f"bearer {key}"}).status_code == 200
    assert stranger.get("/v1/models", auth=("anybody", key)).status_code == 200


@pytest.mark.parametrize("text", ["", "Bearer", "Basic", "Basic !", "Basic ====", "Digest x", "Basic é"])
def test_other_credentials_are_401(stranger: httpx.Client, text: str) -> None:
    answer = stranger.get("/v1/models", headers=[(b"Authorization", text.encode("latin-1"))])
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_wrong_keys_lock_their_client_and_a_right_key_still_passes(
    stranger: httpx.Client, issued: dict[str, str], client: httpx.Client
) -> None:
    answers = [stranger.get("/v1/models", headers={"X-API-Key": f"wrong {n}"}) for n in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 9 + [429] * 3
    assert answers[-1].headers["retry-after"] == "30"
    assert answers[-1].json()["error"]["what"] == "Too many wrong keys."
    assert stranger.get("/v1/models", headers={"X-API-Key": issued["predict"]}).status_code == 200
    assert stranger.get("/v1/models").status_code == 401
    text = client.get("/metrics").text
    assert 'millrace_refused_total{reason="locked"} 3.0' in text
    assert 'millrace_refused_total{reason="wrong key"} 9.0' in text


def test_a_locked_client_cannot_try_a_key_that_somebody_thought_up(
    settings: Settings, use_case: UseCase, reader: FakeReader, promote: Promote
) -> None:
    promote()
    chosen = settings.model_copy(update={"api_key": SecretStr("correct horse battery")})
    app = create_app(chosen, [use_case], clock=lambda: NOW, reader_of=lambda *_: reader)
    with client_of(app, chosen) as client:
        assert client.get("/v1/models").status_code == 200
        for number in range(10):
            client.get("/v1/models", headers={"X-API-Key": f"correct horse {number}"})
        assert client.get("/v1/models").status_code == 429
        with httpx.Client(base_url=client.base_url) as browser:
            form, html = {"key": "correct horse battery"}, {"Accept": "text/html"}
            assert browser.post("/sign-in", data=form, headers=html).status_code == 429
        assert client.get("/health/live").status_code == 200


def test_wrong_keys_in_the_sign_in_form_lock_too(stranger: httpx.Client, settings: Settings) -> None:
    html = {"Accept": "text/html"}
    statuses = [stranger.post("/sign-in", data={"key": "x"}, headers=html).status_code for _ in range(11)]
    assert statuses == [401] * 9 + [429] * 2
    assert stranger.post("/sign-in", data={"key": api_key(settings)}, headers=html).status_code == 303


def test_only_an_admin_key_signs_in(stranger: httpx.Client, issued: dict[str, str]) -> None:
    html = {"Accept": "text/html"}
    assert stranger.post("/sign-in", data={"key": issued["predict"]}, headers=html).status_code == 401
    assert stranger.post("/sign-in", data={"key": issued["admin"]}, headers=html).status_code == 303
    assert stranger.get("/", headers=html).status_code == 200


def test_a_key_beyond_its_quota_is_429_with_a_time_to_come_back(
    stranger: httpx.Client, client: httpx.Client, issued: dict[str, str]
) -> None:
    answers = [stranger.get("/v1/models", headers={"X-API-Key": issued["slow"]}) for _ in range(4)]
    assert answers[0].status_code == 200
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert set(refused.json()) == {"error", "request_id"}
    assert stranger.get("/v1/models", headers={"X-API-Key": issued["predict"]}).status_code == 200
    assert 'millrace_over_quota_total{quota="requests"}' in client.get("/metrics").text


def calls(db: Database) -> list[AuditRow]:
    """The first rows of the audit that are of calls, once there are any."""
    while not (found := [row for row in db.audit(20) if row.status is not None]):
        time.sleep(0.01)
    return found


def test_what_an_admin_key_changes_is_in_the_audit_and_nothing_else(
    stranger: httpx.Client, issued: dict[str, str], db: Database
) -> None:
    admin = {"X-API-Key": issued["admin"], "X-Request-ID": "the-one"}
    stranger.get("/metrics", headers=admin)
    stranger.post("/v1/late/reload", headers={"X-API-Key": issued["predict"]})
    stranger.post("/v1/late/reload")
    stranger.post("/v1/late/predict", headers=admin, json={"rows": []})
    stranger.post("/nowhere%00?secret=1", headers=admin)
    assert [(row.key_name, row.method, row.route, row.status, row.request_id, row.remote) for row in calls(db)] == [
        ("admin", "POST", "/nowhere%00", 404, "the-one", "127.0.0.1")
    ]


def test_a_sign_in_is_in_the_audit(stranger: httpx.Client, issued: dict[str, str], db: Database) -> None:
    html = {"Accept": "text/html"}
    stranger.post("/sign-in", data={"key": "wrong"}, headers=html)
    stranger.post("/sign-in", data={"key": issued["admin"]}, headers=html)
    assert [(row.key_name, row.route, row.status) for row in calls(db)] == [("admin", "/sign-in", 303)]


@pytest.mark.parametrize("key", ["", "x", "Bearer x", "é".encode().decode("latin-1")])
def test_a_wrong_key_is_401_and_not_repeated(stranger: httpx.Client, key: str) -> None:
    answer = stranger.get("/v1/models", headers=[(b"X-API-Key", key.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.json()["error"]["field"] == "X-API-Key"


def test_the_key_may_be_a_bearer_token_or_a_password(stranger: httpx.Client, settings: Settings) -> None:
    key = api_key(settings)
    assert stranger.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert stranger.get("/v1/models", auth=("anybody", key)).status_code == 200
    assert stranger.get("/v1/models", auth=(key, "")).status_code == 401
    for odd in ("Basic", "Basic !", "Basic é".encode().decode("latin-1"), f"Digest {key}", key, "Bearer", "Bearer  x"):
        answer = stranger.get("/v1/models", headers=[(b"Authorization", odd.encode("latin-1"))])
        assert answer.status_code == 401, odd


def test_a_session_does_not_open_the_api(stranger: httpx.Client, settings: Settings) -> None:
    signed_in = stranger.post("/sign-in", data={"key": api_key(settings)}, headers={"Accept": "text/html"})
    assert stranger.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert COOKIE in signed_in.cookies
    assert stranger.get("/v1/models").status_code == 401
    assert stranger.post("/v1/late/predict", json={"rows": []}).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "", "user@localhost", "localhost@evil.example", "localhost.",
     "localhost:", "localhost:x", "localhost:99999", "localhost:-1", "localhost:1:2", "[::1", "::1", "[::1]x",
     "[localhost]", "localhost/x", "localhost?x", "local host", "localhost,evil.example", "http://localhost",
     "localhost\x00", "löcalhost"],
)  # fmt: skip
def test_an_odd_host_is_refused(client: httpx.Client, host: str) -> None:
    status, text = asked(client, "GET /health/live HTTP/1.1", f"Host: {host}")
    assert status == 400
    assert "evil" not in text


@pytest.mark.parametrize(
    "headers",
    [("Accept: x",), ("Host: localhost", "Host: localhost"), ("Host: localhost", "Host: evil.example"),
     ("Host: evil.example", "Host: localhost"), ("Host: localhost", "X-API-Key: a", "X-API-Key: b"),
     ("Host: localhost", "Authorization: Bearer a", "Authorization: Bearer b")],
)  # fmt: skip
def test_a_missing_host_and_two_of_a_header_that_counts_are_400(
    stranger: httpx.Client, headers: tuple[str, ...]
) -> None:
    status, text = asked(stranger, "GET /health/live HTTP/1.1", *headers)
    assert status == 400
    assert "evil" not in text


def test_two_of_another_header_are_fine(stranger: httpx.Client) -> None:
    headers = ("Host: localhost", "Accept: a", "Accept: b")
    assert asked(stranger, "GET /health/live HTTP/1.1", *headers)[0] == 200


@pytest.mark.parametrize(("more", "status"), [(62, 200), (63, 431), (500, 431)])
def test_a_request_has_at_most_64_headers(stranger: httpx.Client, more: int, status: int) -> None:
    headers = ("Host: localhost", *(f"X-{number}: x" for number in range(more)))
    assert asked(stranger, "GET /health/live HTTP/1.1", *headers)[0] == status


def test_a_host_is_checked_each_time_though_good_ones_are_remembered(client: httpx.Client) -> None:
    for host, status in (("localhost", 200), ("evil.example", 400), ("localhost", 200), ("evil.example", 400)):
        assert client.get("/health/live", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "[::1]:8100", "localhost:65535"])
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
