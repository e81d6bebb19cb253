"""The one door: every request passes here before any route sees it.

Trusted hosts, the key, the request id, security headers, and the one shape of an unforeseen error. Without a key only
`GET /health/live`, `GET /health/ready` and their `/v2` twins are answered, matched byte for byte; WebSockets are
refused. A key comes as `X-API-Key`, as a bearer token or, from clients that can do no more than that, as the password
of basic authentication. This module knows nothing of models; of web pages only that a browser without a session gets
the sign-in page with its 401.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millrace.errors import MillraceError, RequestError
from millrace.telemetry import Metrics
from serving.answer import send_json
from serving.errors import error_body, told_error
from serving.keys import KeyRing
from serving.online.predict import Predict
from serving.request_log import RequestLog

COOKIE = "millrace_session"
"""Name of the web pages' cookie."""
OPEN = frozenset({b"/health/live", b"/health/ready", b"/v2/health/live", b"/v2/health/ready"})
"""What is answered without a key, to GET and HEAD."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_WEB = re.compile(r"/|/static/.+|/sign-out|/sign-in")


@dataclass(slots=True)
class ServerState:
    """What the server knows of itself: while it drains it is alive but not ready."""

    draining: bool = False


@dataclass(frozen=True)
class Door:
    """What the guard checks against. `hosts` are lower-case names without port; `direct` maps a path to what
    answers its predictions, ahead of the router; `sign_in` answers a browser that has no session."""

    keys: KeyRing
    hosts: frozenset[bytes]
    direct: Mapping[str, Predict]
    sign_in: ASGIApp
    content_security_policy: str
    clock: Callable[[], datetime]
    metrics: Metrics
    log: RequestLog
    state: ServerState


class Guard:
    """The ASGI application that the server runs: `app` behind its door."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.state, self.direct, self._door = app, door.state, door.direct, door
        self.headers = [(name.encode(), value.encode()) for name, value in _security_headers(door).items()]
        self.header_bytes = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        self.direct_urls = {path.encode(): predict for path, predict in door.direct.items()}
        self._counters: dict[tuple[str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def admit(self, scope: Scope) -> RequestError | None:
        """Why this request goes no further, or None; its scope gets a `request_id` and its headers as `header_map`."""
        scope["arrived"] = scope.get("arrived") or time.perf_counter()
        headers = scope["header_map"] = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        known = given is not None and _REQUEST_ID.fullmatch(given)
        scope["request_id"] = given.decode() if given is not None and known else secrets.token_hex(8)
        return self._refusal(scope, headers)

    def answered(self, scope: Scope, route: str, status: int) -> None:
        """Count an answered request and log it if it is worth a line."""
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = self._door.metrics.requests.labels(route, status)
        counter.inc()
        self._door.log.note(scope, route, status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = (b"x-request-id", scope["request_id"].encode())
                message["headers"] = [*message.get("headers", ()), request_id, *self.headers]
                if self.state.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        direct = self.direct.get(scope["path"])
        refused = self.admit(scope)
        try:
            if refused is not None:
                await self._refuse(refused, scope, receive, secured, scope["header_map"])
            else:
                await (direct or self.app)(scope, receive, secured)
        except Exception as error:  # the last resort: whatever it was, the client gets the one shape
            if status:
                raise
            scope["error"] = error
            await _send_error(told_error(error), scope, secured)
        self.answered(scope, scope["path"] if direct else getattr(scope.get("route"), "path", "other"), status)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> RequestError | None:
        """Why this request goes no further, or None."""
        if _host(headers.get(b"host", b"")) not in self._door.hosts:
            return RequestError(
                400, "This server does not answer to this host name.", field="Host", todo="Set MILLRACE_TRUSTED_HOSTS."
            )
        key = _key(headers)
        if key is not None and self._door.keys.knows(key):
            return None
        if scope["method"] in ("GET", "HEAD") and scope.get("raw_path", b"") in OPEN:
            return None
        if _WEB.fullmatch(scope["path"]) and self._door.keys.accepts(_session(headers), self._door.clock()):
            return None
        what = "This needs a key." if key is None else "This is not the key."
        return RequestError(
            401, what, field="X-API-Key", todo="Send the key that `millrace serve` prints as X-API-Key."
        )

    async def _refuse(
        self, why: RequestError, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes]
    ) -> None:
        browser = b"text/html" in headers.get(b"accept", b"") and _WEB.fullmatch(scope["path"])
        if why.status == 401 and browser:
            await self._door.sign_in(scope, receive, send)
        else:
            await _send_error(why, scope, send)


def trusted(names: Collection[str]) -> frozenset[bytes]:
    """The host names to answer to: these and loopback's."""
    return frozenset(name.strip("[]").lower().encode() for name in (*names, "127.0.0.1", "localhost", "::1"))


async def _send_error(error: MillraceError, scope: Scope, send: Send) -> None:
    status, body = error_body(error, scope["request_id"], scope["path"])
    await send_json(send, status, body)


def _host(header: bytes) -> bytes:
    """The name in a Host header, without port or brackets."""
    if header.startswith(b"["):
        return header[1:].partition(b"]")[0].lower()
    return header.partition(b":")[0].lower()


def _key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request brings, or None; of basic authentication the password, whatever the user."""
    key = headers.get(b"x-api-key")
    if key is not None:
        return key
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return given.strip()
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _session(headers: Mapping[bytes, bytes]) -> str:
    try:
        cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def _security_headers(door: Door) -> dict[str, str]:
    return {
        "content-security-policy": door.content_security_policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
