"""Predictions as a plain ASGI callable, ahead of the router: it is most of what a server does.

Body → checked rows → micro-batch → answer. How a body is read and an answer written is a `Dialect`'s business; here is
what all of them share. This module knows nothing of keys (the guard's) or models (the holder's).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from millrace.errors import MillraceError, RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.answer import check_type, read_body, send_json
from serving.errors import refusal
from serving.idempotency import Repeats
from serving.keys import Caller
from serving.online.answers import Answer
from serving.online.batcher import Overload, too_many
from serving.online.champion import Holder, Serving
from serving.online.request import PredictRequest
from serving.online.scorer import unrecorded
from serving.quota import Quotas

Headers = Mapping[bytes, bytes]
"""A request's headers, names in lower case."""
RawHeaders = Sequence[tuple[bytes, bytes]]
Reply = tuple[bytes, RawHeaders]
"""A body and the headers that it needs beside its length; without a content type it is JSON."""
_TRACE = b"x-trace"
"""A request with this header is told in `Server-Timing` where its time went."""
_SAYING_WHAT = (b"content-type", b"inference-header-content-length")
"""Headers that say how a body is read: with another one it is another request."""
_ALLOW = (b"allow", b"POST")


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
        """See `serving.online.decoder`."""
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

    def __init__(
        self, holder: Holder, settings: Settings, metrics: Metrics, quotas: Quotas, dialect: Dialect | None = None
    ) -> None:
        self.limit = settings.request_mb * 1_000_000
        """Most bytes of a body."""
        self.dialect = dialect or Native()
        self.seconds = metrics.request_seconds.labels(holder.use_case.name)
        self._holder, self._shed, self.quotas = holder, metrics.shed, quotas
        self._asking: set[asyncio.Task[None]] = set()  # of callers that wait for a share of their quota
        self._refuses_unlogged = settings.log_full == "refuse"
        self._repeats = Repeats(room=settings.idempotency_mb * 1_000_000, seconds=settings.idempotency_seconds)

    def start(self, scope: Scope, body: bytes, client: Client) -> None:
        """Answer a whole request: the client's `reply` is called once, at once or when its batch has run."""
        pending, headers = _Pending(self, scope, client), scope["header_map"]
        try:
            if b"idempotency-key" in headers:
                first = self._first(scope, body, client)
                if first is None:
                    return
                pending = _Pending(self, scope, first)
            if self._refuses_unlogged and self._holder.log.failing:
                raise unrecorded()
            served = pending.served = self._holder.champion()
            if served.batcher.full:
                raise too_many()
            request = pending.job = self.dialect.parse(body, headers, served)
            pending.rows = request.count
            if pending.enter_now():
                pending.submit()
            else:
                asking = asyncio.get_running_loop().create_task(pending.enter())
                self._asking.add(asking)
                asking.add_done_callback(self._asking.discard)
        except Exception as error:  # whatever it is, it is this request's alone
            pending.finish(error)

    def wait_for_room(self, go_on: Callable[[], None]) -> bool:
        """Whether the model's queue is full; then `go_on` is called when it has room. Nothing waits without a model."""
        served = self._holder.served
        if served is None or not served.batcher.full:
            return False
        served.batcher.when_room(go_on)
        return True

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

    def _first(self, scope: Scope, body: bytes, client: Client) -> Client | None:
        """Who is to be answered if this is no repeat; see `serving.idempotency`."""
        headers = scope["header_map"]
        content = (*(headers.get(name, b"") for name in _SAYING_WHAT), body)
        return self._repeats.first(headers[b"idempotency-key"], scope["caller"].id.encode(), content, client)

    def refusal(self, error: Exception, scope: Scope) -> tuple[int, bytes, RawHeaders]:
        """The answer to a request that cannot be answered; one that was refused to protect the others is counted."""
        if isinstance(error, Overload):
            self._shed.labels(self._holder.use_case.name, error.reason).inc()
        status, body, headers = refusal(error, scope)
        return status, body, [*headers, _ALLOW] if status == 405 else headers


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

    __slots__ = (
        "_caller", "_client", "_inside", "_predict", "_scope", "_started", "_submitted", "expires", "job", "rows",
        "served",
    )  # fmt: skip

    job: PredictRequest
    served: Serving

    def __init__(self, predict: Predict, scope: Scope, client: Client) -> None:
        self._predict, self._scope, self._client = predict, scope, client
        self._caller: Caller = scope["caller"]
        self._started = self._submitted = time.perf_counter()
        self._inside = False
        self.rows, self.expires = 0, 0.0

    @property
    def gone(self) -> bool:
        return self._client.gone

    def enter_now(self) -> bool:
        """Whether the caller's quota lets it in at once; raises `RequestError` when it refuses."""
        self._inside = self._predict.quotas.enter_now(self._caller, self.rows)
        return self._inside

    async def enter(self) -> None:
        """Wait for a share of the caller's quota, which another process may count; then queue."""
        try:
            await self._predict.quotas.enter(self._caller, self.rows)
            self._inside = True
            self.submit()
        except Exception as error:  # its refusal, or whatever the counting raises
            self.finish(error)

    def submit(self) -> None:
        """Queue for the model; raises `Overload`."""
        self._submitted = time.perf_counter()
        self.served.batcher.submit(self)

    def finish(self, answer: Answer | Exception) -> None:
        predict, scope = self._predict, self._scope
        status, body, headers = self._rendered(answer) if isinstance(answer, Answer) else predict.refusal(answer, scope)
        if self._inside:
            predict.quotas.leave(self._caller)
        ended = time.perf_counter()
        predict.seconds.observe(ended - scope["arrived"])
        self._client.reply(status, body, self._traced(headers, ended))

    def _rendered(self, answer: Answer) -> tuple[int, bytes, RawHeaders]:
        try:
            return 200, *self._predict.dialect.render(answer, self.job, self.served)
        except Exception as error:  # the last resort: whatever it was, the client gets the one shape
            return self._predict.refusal(error, self._scope)

    def _traced(self, headers: RawHeaders, ended: float) -> RawHeaders:
        """The headers, with where the time went if that was asked for; the scope is told for the log in any case."""
        batch = self.job.stages if self.rows else None
        if batch is None:
            return headers
        scope = self._scope
        scope["stages"] = tell = partial(batch.of_request, scope["arrived"], self._started, self._submitted, ended)
        if _TRACE not in scope["header_map"]:
            return headers
        timing = ", ".join(f"{name};dur={ms:.3f}" for name, ms in tell().items())
        return [*headers, (b"server-timing", timing.encode())]
