"""`POST /v1/{use_case}/features/{view}`: fresh rows of a feature view, into the lake and the online store.

Pushes of one use case run one after the other in a thread of their own: a commit to the lake takes milliseconds, in
which the event loop goes on answering predictions, and two at once would only race for the table's next version. This
module knows of rows no more than that they are JSON; `features.push` checks and writes them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NoReturn

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from features.push import Pushed, push
from features.push_rows import PLAIN
from millrace.errors import RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.answer import read_json
from serving.online.batcher import Overload

MAX_WAITING = 64
"""Most pushes of one use case that wait for the one before them; beyond it: 503."""
_BODY = {
    "type": "object",
    "required": ["rows"],
    "properties": {"rows": {"type": "array", "minItems": 1, "items": {"type": "object"}}},
    "additionalProperties": False,
}
"""The body's schema, for the route's description; each view's columns are the view's own."""


class Pushes:
    """Takes the pushes to one use case."""

    def __init__(
        self, use_case: UseCase, settings: Settings, *, metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        self._use_case, self._settings, self._clock = use_case, settings, clock
        self._shed = metrics.shed.labels(use_case.name, "push")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"push {use_case.name}")
        self._waiting = 0

    async def take(self, view: str, body: bytes) -> Pushed:
        """Check and write the rows of a body; raises what `features.push.push` raises, and `Overload`."""
        if self._waiting >= MAX_WAITING:
            self._shed.inc()
            raise Overload("push", "Too many pushes are waiting.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._push, view, body)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Stop the thread once its last push is done."""
        self._thread.shutdown()

    def _push(self, view: str, body: bytes) -> Pushed:
        rows = decode_rows(body, max_rows=self._settings.request_rows)
        return push(self._use_case, self._settings, view, rows, now=self._clock())


def push_router(pushes: Mapping[str, Pushes], settings: Settings) -> APIRouter:
    """The route that takes pushed rows."""
    router = APIRouter()
    limit = settings.request_mb * 1_000_000
    described = {"requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}}}

    @router.post("/v1/{use_case}/features/{view}", openapi_extra=described)
    async def push_rows(use_case: str, view: str, request: Request) -> Response:
        """Write rows of a feature view, `{"rows": [{…}, …]}`: its join keys, `event_time`, its features, and
        `known_at` if that is not now.

        The same rows again change nothing and are answered as `repeated`.
        """
        if use_case not in pushes:
            what = "This server serves no use case of this name."
            raise RequestError(404, what, field="use_case", todo="See /v1/models.")
        done = await pushes[use_case].take(view, await read_json(request, limit))
        return Response(msgspec.json.encode(done), media_type="application/json")

    return router


def decode_rows(body: bytes, *, max_rows: int) -> list[dict[str, Any]]:
    """The rows of a body.

    Raises `RequestError`: 400 what is not JSON, 413 too many rows, 422 another shape or a column that is given twice.
    """
    try:
        given = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):  # malformed, cut off, not UTF-8, NaN, nested without end
        raise RequestError(400, "The body is not JSON.", field="body") from None
    if not isinstance(given, dict) or given.keys() != {"rows"} or not isinstance(given["rows"], list):
        raise RequestError(422, "The body must have rows and nothing else.", field="body", todo='Send {"rows": [{…}]}.')
    rows: list[Any] = given["rows"]
    if len(rows) > max_rows:
        what, todo = f"A request has at most {max_rows:,} rows.", "Split it, or use `millrace push` with a file."
        raise RequestError(413, what, field="rows", todo=todo)
    wrong = next((place for place, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise RequestError(422, "Each row must be an object.", field=f"rows[{wrong}]")
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(422, "A column is given twice.", field=twice if PLAIN.fullmatch(twice) else "rows")
    return found


def _refuse(_: str) -> NoReturn:
    raise ValueError
