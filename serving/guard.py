"""The one door: every request passes here before any route sees it.

Header limits, trusted hosts, the key and its scope, the lock-out, the request id, security headers, and the one shape
of an unforeseen error. Without a key only the health addresses of `serving.access.OPEN` are answered, matched byte for
byte; WebSockets are refused. What changes something with the admin scope is noted for the audit. What later callables
need is in the scope: `caller` (None without a key), `request_id` and `header_map`. This module knows nothing of
models; of web pages only that a browser without a session gets the sign-in page with its 401.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from random import getrandbits
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millrace.db import AuditRow
from millrace.errors import RequestError
from millrace.telemetry import Metrics
from serving.access import (
    MAX_HEADERS,
    Headers,
    address_of,
    check_headers,
    check_host,
    is_open,
    is_web,
    key_of,
    needed_scope,
    session_of,
)
from serving.answer import send_json
from serving.audit import Audit
from serving.errors import refusal
from serving.keys import Caller, KeyRing
from serving.lockout import Lockout
from serving.online.predict import Predict
from serving.quota import Quotas
from serving.request_log import RequestLog

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_MAX_HOSTS = 1_024


@dataclass(slots=True)
class ServerState:
    """What the server knows of itself: while it drains it is alive but not ready."""

    draining: bool = False


@dataclass(frozen=True)
class Door:
    """What the guard checks against. `hosts` are lower-case names without port; `direct` maps a path to what
    answers its predictions, ahead of the router, and counts its own quota; `sign_in` answers a browser that has no
    session."""

    keys: KeyRing
    lockout: Lockout
    quotas: Quotas
    audit: Audit
    hosts: frozenset[bytes]
    direct: Mapping[str, Predict]
    sign_in: ASGIApp
    content_security_policy: str
    clock: Callable[[], datetime]
    metrics: Metrics
    log: RequestLog
    state: ServerState


class _Reply:
    """A request's `send` that adds what every answer has, and remembers the status."""

    __slots__ = ("_headers", "_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._send, self._request_id, self._headers = send, request_id, headers
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = message.get("headers", ())
            message["headers"] = [*given, (b"x-request-id", self._request_id), *self._headers]
        return self._send(message)


class Guard:
    """The ASGI application that the server runs: `app` behind its door, and the `direct` callables ahead of it."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.state, self.direct, self._door = app, door.state, door.direct, door
        self._headers = [(name.encode(), value.encode()) for name, value in _security_headers(door).items()]
        self._closing = [*self._headers, (b"connection", b"close")]
        self.header_bytes = b"".join(b"%b: %b\r\n" % header for header in self._headers)
        """What every answer has, as it goes over the wire."""
        self.direct_urls = {path.encode(): predict for path, predict in door.direct.items()}
        self._counters: dict[tuple[str, int], Any] = {}
        self._needed = {("POST", path): needed_scope("POST", path) for path in door.direct}
        self._hosts: set[bytes | None] = set()  # Host headers found good, since parsing one costs 2 µs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        self.name(scope)
        headers = self._closing if self.state.draining else self._headers
        reply = _Reply(send, scope["request_id"].encode(), headers)
        direct = self.direct.get(scope["path"])
        try:
            await self._answer(direct, scope, receive, reply)
        except Exception as error:  # the last resort: whatever it was, the client gets the one shape
            if reply.status:
                raise
            await send_json(reply, *refusal(error, scope))
        finally:
            route = scope["path"] if direct else getattr(scope.get("route"), "path", "other")
            self.answered(scope, route, reply.status)
            if scope["needs"] == "admin" and scope["method"] not in _SAFE:
                self._note(scope, reply.status)

    def name(self, scope: Scope) -> None:
        """Put when the request `arrived`, its headers as `header_map`, if they are not there, and its `request_id` into
        its scope."""
        scope.setdefault("arrived", time.perf_counter())
        if "header_map" not in scope:
            scope["header_map"] = dict(scope["headers"])
        headers: Headers = scope["header_map"]
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%016x" % getrandbits(64)  # a name, no secret: it need not be unguessable
        scope["request_id"] = request_id.decode()

    def answered(self, scope: Scope, route: str, status: int) -> None:
        """Count an answered request and log it if it is worth a line."""
        counter = self._counters.get((route, status))
        if counter is None:
            counter = self._counters[route, status] = self._door.metrics.requests.labels(route, status)
        counter.inc()
        self._door.log.note(scope, route, status)
        scope.pop("error", None)  # its traceback holds the frames that hold this scope, and the body with them

    async def _answer(self, direct: Predict | None, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            self.admit(scope)
        except RequestError as error:
            await self._refuse(error, scope, receive, reply)
            return
        if direct is not None:
            await direct(scope, receive, reply)
        else:
            await self._route(scope, receive, reply)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _route(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        """Let the router answer, within the caller's quota; direct callables know their rows and count themselves."""
        caller, quotas = scope["caller"], self._door.quotas
        if caller is None or caller.quota is None:
            await self.app(scope, receive, reply)
            return
        try:
            await quotas.enter(caller, 0)
        except RequestError as error:
            await send_json(reply, *refusal(error, scope))
            return
        try:
            await self.app(scope, receive, reply)
        finally:
            quotas.leave(caller)

    def admit(self, scope: Scope) -> None:
        """Put whose request this is (`caller`) and the scope that it `needs` into the scope of a named request.

        Raises `RequestError` when it goes no further.
        """
        headers: Headers = scope["header_map"]
        scope["caller"], scope["needs"] = None, "admin"
        if (
            headers.get(b"host") not in self._hosts
            or len(headers) < len(scope["headers"])
            or len(headers) > MAX_HEADERS
        ):
            self._check_address(scope["headers"], headers)
        key = headers.get(b"x-api-key") or key_of(headers)
        caller = self._door.keys.caller(key, self._door.clock) if key is not None else None
        if caller is not None and not (caller.guessable and self._locked(scope)):
            needed = self._needed.get((scope["method"], scope["path"])) or needed_scope(scope["method"], scope["path"])
            if needed in caller.scopes or is_open(scope):
                scope["caller"], scope["needs"] = caller, needed
                return
            todo = f"Send one that has the scope {needed}."
            raise self._turn_away("scope", 403, "This key may not do this.", field="X-API-Key", todo=todo)
        if is_open(scope):
            return
        if is_web(scope["path"]):
            scope["caller"] = self._door.keys.accepts(session_of(headers), self._door.clock())
            if scope["caller"] is not None:
                return
        raise self._keyless() if key is None else self._failed(scope, key)

    def _check_address(self, given: list[tuple[bytes, bytes]], headers: Headers) -> None:
        try:
            check_headers(given)
            check_host(headers.get(b"host"), self._door.hosts)
        except RequestError as error:
            self._door.metrics.refused.labels("host" if error.field == "Host" else "headers").inc()
            raise
        if len(self._hosts) < _MAX_HOSTS:
            self._hosts.add(headers.get(b"host"))

    def _keyless(self) -> RequestError:
        todo = "Send the key that `millrace serve` prints, or one of `millrace keys create`, as X-API-Key."
        return self._turn_away("no key", 401, "This needs a key.", field="X-API-Key", todo=todo)

    def _failed(self, scope: Scope, key: bytes) -> RequestError:
        """What a wrong key gets; it counts against its client, and against the key whose id it names."""
        now, fail = self._door.clock(), self._door.lockout.fail
        meant = self._door.keys.meant(key)
        wait = max(fail(address_of(scope), now), fail(f"key {meant}", now) if meant else 0)
        if wait:
            todo = "Come back after the seconds in Retry-After, with the right key."
            return self._turn_away("locked", 429, "Too many wrong keys.", todo=todo, retry_after=wait)
        todo = "Send the right one; see `millrace keys list`."
        return self._turn_away("wrong key", 401, "This is not a valid key.", field="X-API-Key", todo=todo)

    def _locked(self, scope: Scope) -> bool:
        return self._door.lockout.wait(address_of(scope), self._door.clock()) > 0

    def _turn_away(self, reason: str, status: int, what: str, **told: Any) -> RequestError:
        self._door.metrics.refused.labels(reason).inc()
        return RequestError(status, what, **told)

    async def _refuse(self, why: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        browser = b"text/html" in scope["header_map"].get(b"accept", b"") and is_web(scope["path"])
        if why.status == 401 and browser:
            await self._door.sign_in(scope, receive, send)
        else:
            await send_json(send, *refusal(why, scope))

    def _note(self, scope: Scope, status: int) -> None:
        """Hand the audit a call that its caller may make; strangers' attempts are counted, they could be any number."""
        caller: Caller | None = scope["caller"]
        if caller is not None:
            route, remote = scope.get("raw_path", b"").decode("latin-1")[:255], address_of(scope)[:255]
            row = AuditRow(
                self._door.clock(), caller.id, caller.name, scope["method"], route, remote, status, scope["request_id"]
            )
            self._door.audit.note(row)


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
