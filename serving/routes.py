"""The ordinary routes: health, models, contracts, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import Response

from millrace.db import Database, ModelRow
from millrace.errors import RequestError
from millrace.inputs import InputSpec
from millrace.telemetry import CONTENT_TYPE, Metrics, merge
from serving.guard import ServerState
from serving.online.champion import Holder
from serving.siblings import Siblings

METRICS_SECONDS = 1.0
"""How long the metrics page waits for the other workers."""


def api_router(
    db: Database, holders: Mapping[str, Holder], metrics: Metrics, state: ServerState, siblings: Siblings
) -> APIRouter:
    """The routes that answer JSON, and Prometheus."""
    router = APIRouter()

    async def page(_: str) -> bytes:
        return await asyncio.to_thread(metrics.render)

    siblings.answer("metrics", page)

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers at all."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> Response:
        """Whether predictions are answered: 503 while draining or before any model is open.

        A use case whose newest champion could not be opened says why in `problem`; the one before it goes on serving.
        Of several workers the one that answers speaks for itself; it would get no request before it can answer them.
        `degraded` says what predictions have to do without: their flags tell which.
        """
        models = {name: _readiness(holder) for name, holder in holders.items()}
        is_ready = not state.draining and any(holder.served for holder in holders.values())
        content = {"ready": is_ready, "draining": state.draining, "models": models}
        return _json(content, 200 if is_ready else 503)

    @router.get("/v1/models")
    def models() -> Response:
        """Every use case with its registered versions, the newest first, and which of them serves here."""
        found = [
            {
                "use_case": name,
                "serving": holder.served.version if holder.served else None,
                "versions": [_summary(row) for row in db.models(name)],
            }
            for name, holder in holders.items()
        ]
        return _json({"models": found})

    @router.get("/v1/{use_case}/contract")
    def contract(use_case: str) -> Response:
        """What a request's rows may hold, and the inputs of the model that serves."""
        holder = holders.get(use_case)
        if holder is None:
            what = "This server serves no use case of this name."
            raise RequestError(404, what, field="use_case", todo="See /v1/models.")
        return _json(_described(holder))

    @router.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        """The metrics of all workers; with several of them each has its own in the label `worker`."""
        pages = await siblings.ask("metrics", seconds=METRICS_SECONDS)
        content = pages[siblings.number] if siblings.alone else merge(pages)
        return Response(content, media_type=CONTENT_TYPE)

    return router


def _json(content: Any, status: int = 200) -> Response:
    """A JSON answer; what was not measured (NaN) is null."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _readiness(holder: Holder) -> dict[str, Any]:
    version = holder.served.version if holder.served else None
    return {"version": version, "problem": holder.problem, "degraded": holder.degraded}


def _summary(row: ModelRow) -> dict[str, Any]:
    return {
        "version": row.version,
        "candidate": row.candidate,
        "status": row.status,
        "trained_as_of": row.as_of.isoformat(),
        "quality": row.quality,
        "cost": row.cost,
        "passed": row.verdict.get("passed"),
    }


def _described(holder: Holder) -> dict[str, Any]:
    model = holder.champion().model
    contract = model.contract
    return {
        "use_case": contract.use_case,
        "version": model.version,
        "question": contract.question,
        "candidate": contract.candidate,
        "engine": contract.engine,
        "trained_as_of": contract.trained_as_of.isoformat(),
        "columns": {name: str(kind) for name, kind in model.columns.items()},
        "needs": [{"column": need.column, "or_all_of": sorted(need.dependents)} for need in model.needs],
        "inputs": [_input(spec) for spec in contract.inputs],
    } | ({"classes": contract.classes} if contract.classes else {})


def _input(spec: InputSpec) -> dict[str, Any]:
    """An input as the model saw it in training; the `size` of an array."""
    told = {"name": spec.name, "kind": spec.kind, "categories": spec.categories, "low": spec.low, "high": spec.high}
    return told | ({"size": spec.size} if spec.size > 1 else {})
