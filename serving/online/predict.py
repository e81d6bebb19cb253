"""Predictions as a plain ASGI callable, ahead of the router: it is most of what a server does.

Body → checked rows → micro-batch → answer. How a body is read and an answer written is a `Dialect`'s business; here is
what all of them share. This module knows nothing of keys (the guard's) or models (the holder's).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from millrace.errors import MillraceError, RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.answer import check_type, read_body, send_json
from serving.errors import error_body, internal_error
from serving.idempotency import Repeats
from serving.online.answers import Answer
from serving.online.batcher import Overload
from serving.online.champion import Holder, Serving
from serving.online.request import PredictRequest

Headers = Mapping[bytes, bytes]
"""A request's headers, names in lower case."""
RawHeaders = Sequence[tuple[bytes, bytes]]
Reply = tuple[bytes, RawHeaders]
"""A body and the headers that it needs beside its length; without a content type it is JSON."""
_ADVICE = {503: (b"retry-after", b"1"), 405: (b"allow", b"POST"), 413: (b"connection", b"close")}


class Dialect(Protocol):
    """A way to ask for predictions: how a body becomes checked rows and an answer becomes a body."""

    def parse(self, body: bytes, headers: Headers, served: Serving) -> PredictRequest:
        """The checked request; raises `RequestError` naming the field."""

    def render(self, answer: Answer, request: PredictRequest, served: Serving) -> Reply:
        """The answer as this dialect says it."""


class Native:
    """Millrace's own JSON: `{"rows": […]}` in, scores with ids and flags out."""

    _encode = staticmethod(msgspec.json.Encoder().encode)

    def parse(self, body: bytes, headers: Headers, served: Serving) -> PredictRequest:
        """See `serving.online.request`."""
        check_type(headers)
        return served.decoder.decode(body)

    def render(self, answer: Answer, request: PredictRequest, served: Serving) -> Reply:
        """See `serving.online.answers`."""
        return self._encode(answer), []


class Client(Protocol):
    """Who asked, and waits."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""

    def reply(self, status: int, body: bytes, headers: RawHeaders) -> None:
        """Take the answer, with the headers that it needs beside its length; called once, must not raise."""


class Predict:
    """Answers the predictions of one use case in one dialect.

    `start` does the work and calls back, for whoever has a whole request at hand; called as an ASGI application it
    reads the body first.
    """

    def __init__(self, holder: Holder, settings: Settings, metrics: Metrics, dialect: Dialect | None = None) -> None:
        self.limit = settings.request_mb * 1_000_000
        """Most bytes of a body."""
        self.dialect = dialect or Native()
        self.seconds = metrics.request_seconds.labels(holder.use_case.name)
        self._holder, self._shed = holder, metrics.shed
        self._repeats = Repeats(room=settings.idempotency_mb * 1_000_000, seconds=settings.idempotency_seconds)

    def start(self, scope: Scope, body: bytes, client: Client) -> None:
        """Answer a whole request: the client's `reply` is called once, at once or when its batch has run."""
        pending, headers = _Pending(self, scope, client), scope["header_map"]
        try:
            if b"idempotency-key" in headers:
                first = self._first(headers, body, client)
                if first is None:
                    return
                pending = _Pending(self, scope, first)
            served = pending.served = self._holder.champion()
            request = pending.job = self.dialect.parse(body, headers, served)
            pending.rows = request.count
            served.batcher.submit(pending)
        except Exception as error:  # whatever it is, it is this request's alone
            pending.finish(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        waiting = _Future()
        try:
            if scope["method"] != "POST":
                raise RequestError(405, "Predictions are asked for with POST.", field="method")
            body = await read_body(receive, scope["header_map"].get(b"content-length", b""), self.limit)
        except MillraceError as error:
            _Pending(self, scope, waiting).finish(error)
        else:
            self.start(scope, body, waiting)
        await send_json(send, *await waiting.replied)

    def _first(self, headers: Headers, body: bytes, client: Client) -> Client | None:
        """Who is to be answered if this is no repeat; see `serving.idempotency`."""
        sender, content = headers.get(b"x-api-key", b""), (headers.get(b"content-type", b""), body)
        return self._repeats.first(headers[b"idempotency-key"], sender, content, client)

    def refusal(self, error: Exception, request_id: str) -> tuple[int, bytes, RawHeaders]:
        """The answer to a request that cannot be answered: when to come back, what is allowed, and to give up a
        connection whose body was not read."""
        known = error if isinstance(error, MillraceError) else internal_error(error, request_id)
        status, body = error_body(known, request_id)
        if isinstance(error, Overload):
            self._shed.labels(self._holder.use_case.name, error.reason).inc()
        advice = _ADVICE.get(status)
        return status, body, [advice] if advice else []


class _Future:
    """An ASGI call that awaits its answer."""

    def __init__(self) -> None:
        self.replied: asyncio.Future[tuple[int, bytes, RawHeaders]] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        return self.replied.done()

    def reply(self, status: int, body: bytes, headers: RawHeaders) -> None:
        if not self.replied.done():  # its task was cancelled
            self.replied.set_result((status, body, headers))


class _Pending:
    """A request that waits for its batch: what the batcher needs of it, and how it is answered."""

    __slots__ = ("_began", "_client", "_predict", "_scope", "expires", "job", "rows", "served")

    job: PredictRequest
    served: Serving

    def __init__(self, predict: Predict, scope: Scope, client: Client) -> None:
        self._predict, self._scope, self._client = predict, scope, client
        self._began = time.perf_counter()
        self.rows, self.expires = 0, 0.0

    @property
    def gone(self) -> bool:
        return self._client.gone

    def finish(self, answer: Answer | Exception) -> None:
        predict = self._predict
        try:
            if isinstance(answer, Exception):
                raise answer
            body, headers = predict.dialect.render(answer, self.job, self.served)
            status = 200
        except Exception as error:  # the last resort: whatever it was, the client gets the one shape
            status, body, headers = predict.refusal(error, self._scope["request_id"])
        predict.seconds.observe(time.perf_counter() - self._began)
        self._client.reply(status, body, headers)
