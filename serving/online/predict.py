"""`POST /v1/{use_case}/predict` as a plain ASGI callable, ahead of the router: it is most of what a server does.

Body → checked rows → micro-batch → answer. This module knows nothing of keys (the guard's) or models (the holder's).
"""

from __future__ import annotations

import time
from http import HTTPStatus

import msgspec
from starlette.types import Receive, Scope, Send

from millrace.errors import MillraceError, RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.answer import check_type, read_body, send_json
from serving.errors import error_body
from serving.online.batcher import Overload
from serving.online.champion import Holder

_encode = msgspec.json.Encoder().encode


class Predict:
    """Answers the predictions of one use case."""

    def __init__(self, holder: Holder, settings: Settings, metrics: Metrics) -> None:
        self._holder, self._name = holder, holder.use_case.name
        self._limit = settings.request_mb * 1_000_000
        self._seconds = metrics.request_seconds.labels(self._name)
        self._shed = metrics.shed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: list[tuple[bytes, bytes]] = []
        try:
            status, body = HTTPStatus.OK.value, await self._answer(scope, receive)
        except MillraceError as error:
            status, body = error_body(error, scope["request_id"])
            headers = self._advice(error, status)
        await send_json(send, status, body, headers)
        self._seconds.observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise RequestError(405, "Predictions are asked for with POST.", field="method")
        headers = dict(scope["headers"])
        check_type(headers)
        body = await read_body(receive, headers.get(b"content-length", b""), self._limit)
        served = self._holder.champion()
        request = served.decoder.decode(body)
        return _encode(await served.batcher.submit(request, len(request.rows)))

    def _advice(self, error: MillraceError, status: int) -> list[tuple[bytes, bytes]]:
        """When to come back, what is allowed, and to give up a connection whose body was not read."""
        if isinstance(error, Overload):
            self._shed.labels(self._name, error.reason).inc()
        found = {503: (b"retry-after", b"1"), 405: (b"allow", b"POST"), 413: (b"connection", b"close")}
        return [found[status]] if status in found else []
