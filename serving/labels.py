"""`POST /v1/{use_case}/labels`: what came of predictions, late, repeated, corrected or out of order.

A request is taken whole or refused whole, and in the outcome log before it is answered; a later monitoring pass or
training finds the predictions. Writes of one use case run one after the other in a thread of their own, in which the
event loop goes on answering predictions. What a label may say is `serving.outcomes`' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from millrace.errors import RequestError
from millrace.outcome_log import OutcomeLog, Recorded, log_path
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.answer import read_json
from serving.online.batcher import Overload
from serving.online.bodies import MAX_TEXT
from serving.outcomes import LabelDecoder, key_columns

MAX_WAITING = 64
"""Most requests of one use case that wait for the one before them; beyond it: 503."""
_TIME = {"type": ["string", "null"], "format": "date-time"}
_KNOWN = _TIME | {"description": "Since when the label is known; now, if not given."}
_AT = _TIME | {"description": "Only the row's prediction for this instant."}
_KEY = {"type": ["string", "integer"], "maxLength": MAX_TEXT, "minimum": -(2**63), "maximum": 2**63 - 1}
_COUNT = {"type": "integer", "minimum": 0}
_RECORDED = {
    "type": "object",
    "required": ["accepted", "repeated", "corrected", "contradictory"],
    "properties": {
        "accepted": _COUNT | {"description": "Labels that say something new."},
        "repeated": _COUNT | {"description": "Labels that were known already."},
        "corrected": _COUNT | {"description": "Of the accepted, those that replace another label."},
        "contradictory": _COUNT | {"description": "Of the accepted, those unlike one known at the same instant."},
    },
}


class Labels:
    """Takes the labels of one use case."""

    def __init__(
        self, use_case: UseCase, settings: Settings, *, metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        self._decoder = LabelDecoder(use_case, max_rows=settings.request_rows)
        self._log, self._clock = OutcomeLog(log_path(settings, use_case.name)), clock
        self._count = {
            kind: metrics.labels.labels(use_case.name, kind)
            for kind in ("new", "repeated", "corrected", "contradictory")
        }
        self._shed = metrics.shed.labels(use_case.name, "labels")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"labels {use_case.name}")
        self._waiting = 0

    async def take(self, body: bytes) -> Recorded:
        """Check and write the labels of a body, on return for good.

        Raises `RequestError` (400, 413, 422) naming the field and `Overload` (429, 503); then none of them was taken.
        """
        if self._waiting >= MAX_WAITING:
            self._shed.inc()
            raise Overload("labels", "Too many labels are waiting.")
        self._waiting += 1
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, body)
        finally:
            self._waiting -= 1
        new = done.accepted - done.corrected - done.contradictory
        for kind, number in zip(self._count, (new, done.repeated, done.corrected, done.contradictory), strict=True):
            self._count[kind].inc(number)
        return done

    def close(self) -> None:
        """Stop the thread once its last request is done, and close the log."""
        self._thread.shutdown()
        self._log.close()

    def _write(self, body: bytes) -> Recorded:
        now = self._clock()
        outcomes = self._decoder.decode(body, now=now)
        try:
            return self._log.append(outcomes, received_at=now)
        except OSError as error:  # a full disk: what is not written is not acknowledged
            self._shed.inc()
            what = "Labels cannot be recorded at the moment."
            raise Overload("labels", what, status=429, retry_after=5, looked=f"{error}.") from error


def labels_router(
    use_cases: Sequence[UseCase], settings: Settings, *, metrics: Metrics, clock: Callable[[], datetime]
) -> APIRouter:
    """The route that takes labels; what it holds open is closed when the application ends."""
    takers = {one.name: Labels(one, settings, metrics=metrics, clock=clock) for one in use_cases}

    @asynccontextmanager
    async def run(_app: object) -> AsyncIterator[None]:
        yield
        for taker in takers.values():
            taker.close()

    router = APIRouter(lifespan=run)
    limit = settings.request_mb * 1_000_000

    @router.post("/v1/{use_case}/labels", openapi_extra=_described(use_cases, settings.request_rows))
    async def post_labels(use_case: str, request: Request) -> Response:
        """Say what came of predictions: `{"labels": [{"prediction_id": …, "label": …}, …]}`, or, in the place of the
        id, the key columns of the row that was predicted.

        All are recorded or none, and those that are survive the server. A label that was said before changes nothing;
        another one for the same prediction corrects it from its `known_at` on, and the one known last holds, in
        whatever order they come. Predictions that are not known (yet) may be named.
        """
        if use_case not in takers:
            what = "This server serves no use case of this name."
            raise RequestError(404, what, field="use_case", todo="See /v1/models.")
        done = await takers[use_case].take(await read_json(request, limit))
        return Response(msgspec.json.encode(done), media_type="application/json")

    return router


def _described(use_cases: Sequence[UseCase], rows: int) -> dict[str, Any]:
    """The route's body and answer for its description, with an example of each use case that works as it stands."""
    forms = [form for use_case in use_cases for form in _forms(use_case)]
    body = {
        "type": "object",
        "required": ["labels"],
        "properties": {"labels": {"type": "array", "items": {"anyOf": forms}, "maxItems": rows}},
        "additionalProperties": False,
    }
    examples = {use_case.name: {"value": _example(use_case)} for use_case in use_cases}
    told = {"accepted": 2, "repeated": 0, "corrected": 0, "contradictory": 0}
    answer = {
        "description": "They are recorded.",
        "content": {"application/json": {"schema": _RECORDED, "example": told}},
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "examples": examples}}},
        "responses": {"200": answer},
    }


def _forms(use_case: UseCase) -> list[dict[str, Any]]:
    """What a label of a use case is: with the prediction's id or, where it can, with the row's key."""
    classes = use_case.label.classes
    numbers = [int(name) for name in classes if name.isdecimal() and str(int(name)) == name]
    label = {"enum": [*classes, *numbers] if classes else [True, False, 0, 1]}
    by_id: Mapping[str, Any] = {"prediction_id": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}}
    by_key: Mapping[str, Any] = dict.fromkeys(key_columns(use_case), _KEY)
    forms = [(by_id, {}), *([(by_key, {"at": _AT})] if by_key else [])]
    return [
        {
            "title": f"{use_case.name}, by {' and '.join(names)}",
            "type": "object",
            "required": ["label", *names],
            "properties": {"label": label, "known_at": _KNOWN, **names, **more},
            "additionalProperties": False,
        }
        for names, more in forms
    ]


def _example(use_case: UseCase) -> dict[str, Any]:
    label: Any = use_case.label.classes[0] if use_case.label.classes else True
    rows = [{"prediction_id": "6f1ed002ab5595859014ebf0951522d9", "label": label}]
    keys = key_columns(use_case)
    later = {"label": label, "known_at": "2013-01-01T12:00:00Z"}
    return {"labels": rows + ([dict.fromkeys(keys, "A1") | later] if keys else [])}
