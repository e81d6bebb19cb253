"""The short way of a prediction: from the parsed request to the model's queue, and from the answer to the socket.

uvicorn's protocol starts a task for each request and hands it the body and the answer through an ASGI conversation,
which costs a prediction about what its features, its model and its log cost together. A whole `POST` to a predict route
needs neither: here it passes the same guard and the same `Predict` without a task. Whatever is not of this plain kind
(another route, a body without a length, a pipelined or upgraded request) goes uvicorn's way, to the same callables.
Why, with figures: docs/decisions/0018-the-short-way.md. This module knows HTTP and nothing of models.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.connection import Connection
from serving.errors import refusal
from serving.guard import Guard
from serving.online.batcher import Overload
from serving.online.predict import Predict, RawHeaders

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_UNSUITABLE = frozenset({b"expect", b"upgrade", b"transfer-encoding"})
"""A request with such a header goes uvicorn's way."""


class Event:
    """uvicorn wakes the task of a request with this; here there is none."""

    def set(self) -> None:
        """Nothing to wake."""


class Exchange:
    """One request on the short way and its answer; uvicorn's protocol sees it as the cycle that is under way."""

    __slots__ = (
        "_predict",
        "_protocol",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "scope",
    )
    message_event = Event()

    def __init__(self, protocol: DirectProtocol, predict: Predict, path: str, headers: dict[bytes, bytes]) -> None:
        self._protocol, self._predict = protocol, predict
        self.body = b""
        self.more_body = self.keep_alive = True
        self.disconnected = self.response_complete = False
        self.scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": path, "raw_path": protocol.url, "query_string": b"",
            "headers": protocol.headers, "header_map": headers, "client": protocol.client,
            "arrived": time.perf_counter(),
        }  # fmt: skip

    @property
    def gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self.disconnected

    def start(self) -> None:
        """The body is whole: let the guard see the request and pass it on."""
        guard, scope = self._protocol.guard, self.scope
        guard.name(scope)
        try:
            guard.admit(scope)
            self._predict.start(scope, self.body, self)
        except Exception as error:  # the guard's refusal, or the last resort: the connection goes on
            self.reply(*refusal(error, scope))

    def reply(self, status: int, body: bytes, headers: RawHeaders) -> None:
        """Write the whole answer at once."""
        protocol, error = self._protocol, self.scope.get("error")
        self.response_complete = True
        protocol.guard.answered(self.scope, self.scope["path"], status)
        if self.disconnected or protocol.transport.is_closing():
            return
        parts = [_STATUS[status], protocol.fixed_headers]
        has_type = False
        for name, value in headers:
            has_type = has_type or name == b"content-type"
            if name == b"connection":
                self.keep_alive = False
            else:
                parts.append(b"%b: %b\r\n" % (name, value))
        if not has_type:
            parts.append(b"content-type: application/json\r\n")
        if not self.keep_alive or protocol.guard.state.draining:
            self.keep_alive = False
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (len(body), self.scope["request_id"].encode()))
        parts.append(body)
        protocol.transport.write(b"".join(parts))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()
        if isinstance(error, Overload) and error.reason == "queue":
            protocol.leave_unread(self._predict)


class DirectProtocol(Connection):
    """uvicorn's protocol with a short way for predictions."""

    guard: Guard
    fixed_headers: bytes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: Any = self.app
        self.guard = cast(Guard, app.app if isinstance(app, ProxyHeadersMiddleware) else app)
        self.fixed_headers = self.guard.header_bytes
        self._idle_since = 0.0
        self._short: Exchange | None = None

    def on_message_begin(self) -> None:
        """A scope is made only for a request that goes uvicorn's way."""
        self._in_head = True
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep it; what is to be done about one is seen when they are complete."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the short way or uvicorn's."""
        self._short = None if self.head_is_too_large else self._exchange()
        if self._short is not None:
            self._in_head = False
            self.cycle = cast(RequestResponseCycle, self._short)
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep it; a plain request's is short enough to be kept whole, so reading is never paused."""
        short = self._short
        if short is None:
            super().on_body(body)
        else:
            short.body = short.body + body if short.body else body

    def on_message_complete(self) -> None:
        """Start a plain request, which has its body now."""
        super().on_message_complete()
        if self._short is not None:
            self._short.start()

    def _exchange(self) -> Exchange | None:
        """The request's exchange if it is a plain one: a `POST` to a predict route with a short enough body."""
        predict = self.guard.direct_urls.get(self.url)
        if predict is None or self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 9 or int(length) > predict.limit or self.flow.write_paused:
            return None
        if not _UNSUITABLE.isdisjoint(headers) or not self.parser.should_keep_alive():
            return None
        return Exchange(self, predict, self.url.decode("ascii"), headers)

    def leave_unread(self, predict: Predict) -> None:
        """Read no more of this connection while the model's queue is full: to read a request only to refuse it costs
        what answers cost, and a client that cannot send waits at its own expense."""
        if not self.transport.is_closing() and predict.wait_for_room(self._read_on):
            self.flow.pause_reading()

    def _read_on(self) -> None:
        """The model's queue has room again."""
        if not self.transport.is_closing():
            self.flow.resume_reading()

    # An idle connection is closed by a timer that looks when it was last used; uvicorn's protocol makes and cancels one
    # for every request.

    def on_response_complete(self) -> None:
        """The connection is idle, or the next pipelined request starts."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for so long; otherwise look again when it may have been."""
        self.timeout_keep_alive_task = None
        if not self.cycle.response_complete:
            return  # the end of that request looks again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again(left)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, too."""
        super().connection_lost(exc)
        self._short = None
        if isinstance(cast(object, self.cycle), Exchange):
            self.cycle = None  # type: ignore[assignment]  # uvicorn has None before the first request, too
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn's protocol cancels its timer here, at every piece of data."""
