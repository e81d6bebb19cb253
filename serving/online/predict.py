"""Predictions as a plain ASGI callable, ahead of the router: it is most of what a server does.

Body → checked rows → micro-batch → answer. How a body is read and an answer written is a `Dialect`'s business; here is
what all of them share. This module knows nothing of keys (the guard's) or models (the holder's).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from millrace.errors import MillraceError, RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.answer import check_type, read_body, send_json
from serving.errors import error_body
from serving.online.answers import Answer
from serving.online.batcher import Overload
from serving.online.champion import Holder, Serving
from serving.online.request import PredictRequest

Headers = Mapping[bytes, bytes]
"""A request's headers, names in lower case."""
Reply = tuple[bytes, list[tuple[bytes, bytes]]]
"""A body and the headers that it needs beside its length; without a content type it is JSON."""


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


class Predict:
    """Answers the predictions of one use case in one dialect."""

    def __init__(self, holder: Holder, settings: Settings, metrics: Metrics, dialect: Dialect | None = None) -> None:
        self._holder, self._name, self._dialect = holder, holder.use_case.name, dialect or Native()
        self._limit = settings.request_mb * 1_000_000
        self._seconds = metrics.request_seconds.labels(self._name)
        self._shed = metrics.shed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: list[tuple[bytes, bytes]] = []
        try:
            status, (body, headers) = 200, await self._answer(scope, receive)
        except MillraceError as error:
            status, body = error_body(error, scope["request_id"], scope["path"])
            headers = self._advice(error, status)
        await send_json(send, status, body, headers)
        self._seconds.observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        if scope["method"] != "POST":
            raise RequestError(405, "Predictions are asked for with POST.", field="method")
        headers = dict(scope["headers"])
        body = await read_body(receive, headers.get(b"content-length", b""), self._limit)
        served = self._holder.champion()
        request = self._dialect.parse(body, headers, served)
        answer = await served.batcher.submit(request, len(request.rows))
        return self._dialect.render(answer, request, served)

    def _advice(self, error: MillraceError, status: int) -> list[tuple[bytes, bytes]]:
        """When to come back, what is allowed, and to give up a connection whose body was not read."""
        if isinstance(error, Overload):
            self._shed.labels(self._name, error.reason).inc()
        found = {503: (b"retry-after", b"1"), 405: (b"allow", b"POST"), 413: (b"connection", b"close")}
        return [found[status]] if status in found else []
