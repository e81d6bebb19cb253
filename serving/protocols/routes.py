"""The addresses of the other protocols: health, metadata and inference of `/v2`, and MLflow's four.

The ones that predict are plain ASGI callables, as our own is; the others are ordinary routes. Names and versions are
only ever compared with those that serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from millrace.errors import MillraceError, NoChampionError, RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.answer import send_json
from serving.description import error_responses
from serving.errors import refusal
from serving.guard import ServerState
from serving.online.champion import Holder, Serving
from serving.online.predict import Predict
from serving.protocols.metadata import model_metadata, server_metadata
from serving.protocols.mlflow_scoring import MlflowScoring
from serving.protocols.open_inference import OpenInference, check_version
from serving.quota import Quotas

VERSIONED = "/v2/models/{name}/versions/{version}/infer"
_REFUSALS = error_responses(400, 401, 404, 405, 422, as_text=True)
_ERRORS = _REFUSALS | error_responses(503, as_text=True)
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not at the moment."}}


def protocol_predicts(
    holders: Mapping[str, Holder], settings: Settings, metrics: Metrics, quotas: Quotas
) -> dict[str, Predict]:
    """The callables that answer ahead of the router, by path. `/invocations` has no use case in its path: it is there
    when one alone is served."""
    rows = settings.request_rows
    found: dict[str, Predict] = {}
    for name, holder in holders.items():
        found[f"/v2/models/{name}/infer"] = Predict(holder, settings, metrics, quotas, OpenInference(max_rows=rows))
        found[f"/v1/{name}/invocations"] = Predict(holder, settings, metrics, quotas, MlflowScoring(max_rows=rows))
    if len(holders) == 1:
        found["/invocations"] = found[f"/v1/{next(iter(holders))}/invocations"]
    return found


def protocol_router(
    holders: Mapping[str, Holder], settings: Settings, metrics: Metrics, quotas: Quotas, state: ServerState
) -> APIRouter:
    """The ordinary routes, and inference with a version in its path."""
    router = APIRouter()
    _add_health(router, holders, state)
    _add_models(router, holders, state)
    _add_mlflow(router, holders, state)
    router.routes.append(Route(VERSIONED, VersionedInfer(holders, settings, metrics, quotas), include_in_schema=False))
    return router


class VersionedInfer:
    """Inference by the version in the path, which must be the one that serves: a callable for each that ever did.

    The callable's dialect checks the version again, of the very model that it asks: a champion may change meanwhile.
    """

    path = VERSIONED  # under which the guard counts it

    def __init__(self, holders: Mapping[str, Holder], settings: Settings, metrics: Metrics, quotas: Quotas) -> None:
        self._holders, self._settings, self._metrics, self._quotas = holders, settings, metrics, quotas
        self._predicts: dict[tuple[str, str], Predict] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        name, version = scope["path_params"]["name"], scope["path_params"]["version"]
        try:
            served = served_by(self._holders, name, version)
        except MillraceError as error:
            status, body, headers = refusal(error, scope)
            await send_json(send, status, body, [*headers, (b"connection", b"close")])  # nobody reads what it sends
            return
        key = name, str(served.version)
        if key not in self._predicts:
            dialect = OpenInference(max_rows=self._settings.request_rows, version=version)
            self._predicts[key] = Predict(self._holders[name], self._settings, self._metrics, self._quotas, dialect)
        await self._predicts[key](scope, receive, send)


def served_by(holders: Mapping[str, Holder], name: str, version: str = "") -> Serving:
    """What serves under this name, in this version; `RequestError` (404) when nothing does, `NoChampionError` (503)
    when nothing does yet."""
    if name not in holders:
        raise RequestError(404, "This server serves no model of this name.", field="name", todo="See /v1/models.")
    served = holders[name].champion()
    if version:
        check_version(version, served)
    return served


def _add_health(router: APIRouter, holders: Mapping[str, Holder], state: ServerState) -> None:
    @router.get("/v2/health/live", operation_id="v2_live")
    async def live() -> dict[str, bool]:
        """Whether the process answers at all."""
        return {"live": True}

    @router.get("/v2/health/ready", operation_id="v2_ready", responses=_NOT_READY)
    async def ready() -> Response:
        """Whether predictions are answered: 503 while draining or before any model is open."""
        is_ready = _ready(holders, state)
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    @router.get("/v2", operation_id="v2_server")
    async def server() -> Response:
        """The server's name, version and extensions of the Open Inference Protocol."""
        return _json(server_metadata())


def _add_models(router: APIRouter, holders: Mapping[str, Holder], state: ServerState) -> None:
    @router.get("/v2/models/{name}", operation_id="v2_model", responses=_ERRORS)
    async def model(name: str) -> Response:
        """A model's inputs and outputs: names, datatypes and shapes of their tensors."""
        return _json(model_metadata(name, served_by(holders, name)))

    @router.get(
        "/v2/models/{name}/versions/{version}",
        operation_id="v2_model_version",
        responses=_ERRORS,
    )
    async def model_version(name: str, version: str) -> Response:
        """The same, of the version that serves; 404 for another one."""
        return _json(model_metadata(name, served_by(holders, name, version)))

    @router.get("/v2/models/{name}/ready", operation_id="v2_model_ready", responses=_REFUSALS | _NOT_READY)
    async def model_ready(name: str) -> Response:
        """Whether a model answers: 503 while it does not."""
        return is_ready(name)

    @router.get(
        "/v2/models/{name}/versions/{version}/ready",
        operation_id="v2_model_version_ready",
        responses=_REFUSALS | _NOT_READY,
    )
    async def model_version_ready(name: str, version: str) -> Response:
        """The same, of the version that serves; 404 for another one."""
        return is_ready(name, version)

    def is_ready(name: str, version: str = "") -> Response:
        try:
            served_by(holders, name, version)
            ready = not state.draining
        except NoChampionError:
            ready = False
        return _json({"name": name, "ready": ready}, 200 if ready else 503)


def _add_mlflow(router: APIRouter, holders: Mapping[str, Holder], state: ServerState) -> None:
    @router.get("/ping", operation_id="mlflow_ping", response_class=PlainTextResponse, responses=_NOT_READY)
    @router.get("/health", operation_id="mlflow_health", response_class=PlainTextResponse, responses=_NOT_READY)
    async def ping() -> Response:
        """Whether predictions are answered, for MLflow's clients: 200 with an empty line, or 503."""
        return PlainTextResponse(b"\n", 200 if _ready(holders, state) else 503)

    @router.get("/version", operation_id="mlflow_version", response_class=PlainTextResponse)
    async def version() -> Response:
        """The version of MLflow whose scoring protocol this is."""
        return PlainTextResponse(installed_version("mlflow"))

    @router.post("/invocations", include_in_schema=False)
    async def invocations() -> None:
        """Where a server of several use cases is asked without saying which."""
        what, todo = "This server serves more than one use case.", "Send it to /v1/{use_case}/invocations."
        raise RequestError(404, what, field="use_case", todo=todo)


def _ready(holders: Mapping[str, Holder], state: ServerState) -> bool:
    return not state.draining and any(holder.served for holder in holders.values())


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
