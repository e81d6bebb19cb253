"""The HTTP server's application: ordinary FastAPI routes, plain predict callables ahead of them, a guard around all.

`create_app` wires what it is given and starts nothing: models are opened when the application starts up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import FastAPI

from features.online import open_reader
from millrace.db import Database
from millrace.errors import UseCaseError
from millrace.prediction_log import PredictionLog, log_folder
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.access import trusted
from serving.audit import Audit
from serving.description import describe, name_parameters
from serving.errors import install_handlers
from serving.guard import Door, Guard, ServerState
from serving.jobs import jobs_router
from serving.keys import open_ring, watch_keys
from serving.labels import labels_router
from serving.lockout import Lockout
from serving.online.ages import Ages
from serving.online.champion import Holder
from serving.online.described import predict_paths
from serving.online.model import OpenReader
from serving.online.predict import Predict
from serving.protocols.described import protocol_paths
from serving.protocols.routes import protocol_predicts, protocol_router
from serving.push import Pushes, push_router
from serving.quota import Quotas
from serving.reload import reload_router
from serving.request_log import RequestLog
from serving.routes import api_router
from serving.shipping import keep_shipping
from serving.siblings import Siblings
from serving.web.page import Pages, SignIn, web_router

ROTATE_SECONDS = 30.0
"""A segment of the prediction log is finished at least this often, so that it can be shipped."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def wall_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def create_app(
    settings: Settings,
    use_cases: Sequence[UseCase],
    *,
    clock: Callable[[], datetime] = wall_clock,
    reader_of: OpenReader = open_reader,
    siblings: Siblings | None = None,
) -> Guard:
    """The application that serves these use cases; its `app` is the FastAPI application inside.

    `siblings` are the other workers of the server, if it has any.

    It opens the platform's database and the API key. Raises `SettingsError` when either cannot be had.
    """
    if not use_cases:
        raise UseCaseError("A server needs at least one use case.")
    db, metrics, state, pages = Database.open(settings), Metrics(), ServerState(), Pages()
    keys, lockout, audit, quotas = open_ring(settings, db), Lockout(), Audit(db), Quotas(settings, metrics)
    siblings = siblings or Siblings()

    def hold(use_case: UseCase) -> Holder:
        log = PredictionLog(log_folder(settings, use_case.name))
        return Holder(use_case, settings, db, metrics=metrics, clock=clock, log=log, reader_of=reader_of)

    holders = {use_case.name: hold(use_case) for use_case in use_cases}
    pushes = {use_case.name: Pushes(use_case, settings, metrics=metrics, clock=clock) for use_case in use_cases}
    door = Door(
        keys=keys,
        lockout=lockout,
        quotas=quotas,
        audit=audit,
        hosts=trusted([settings.host, *settings.trusted_hosts]),
        direct={f"/v1/{name}/predict": Predict(holder, settings, metrics, quotas) for name, holder in holders.items()}
        | protocol_predicts(holders, settings, metrics, quotas),
        sign_in=SignIn(pages, keys, lockout, clock),
        content_security_policy=pages.content_security_policy,
        clock=clock,
        metrics=metrics,
        log=RequestLog(slow_ms=settings.log_slow_ms, per_second=settings.log_requests_per_second),
        state=state,
    )
    ages = Ages(use_cases, settings, metrics=metrics, clock=clock)
    app = _fastapi(_lifespan(_Parts(settings, db, door, holders, pushes, ages, siblings)))
    app.include_router(api_router(db, holders, metrics, state, siblings))
    app.include_router(reload_router(holders, siblings, settings))
    app.include_router(push_router(pushes, settings))
    app.include_router(labels_router(use_cases, settings, metrics=metrics, clock=clock))
    app.include_router(jobs_router(use_cases, settings, db, clock=clock))
    app.include_router(protocol_router(holders, settings, metrics, quotas, state))
    app.include_router(web_router(pages, db, holders, clock))
    describe(app, lambda: predict_paths(holders, max_rows=settings.request_rows))
    describe(app, lambda: protocol_paths(holders))
    name_parameters(app, {"use_case": list(holders), "name": list(holders)})
    return Guard(app, door)


def _fastapi(lifespan: Lifespan) -> FastAPI:
    """A FastAPI application without the pages that load scripts from elsewhere, and with our error shape."""
    app = FastAPI(
        title="Millrace",
        summary="Predictions of the champions.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install_handlers(app)
    return app


@dataclass(frozen=True)
class _Parts:
    """What lives as long as the application."""

    settings: Settings
    db: Database
    door: Door
    holders: Mapping[str, Holder]
    pushes: Mapping[str, Pushes]
    ages: Ages
    siblings: Siblings


def _lifespan(parts: _Parts) -> Lifespan:
    """Open the champions before the first request, watch them and the keys, and at the end finish the log's segments
    and the audit."""
    holders, door = parts.holders, parts.door

    @asynccontextmanager
    async def run(_app: FastAPI) -> AsyncIterator[None]:
        for holder in holders.values():
            await holder.reload()
        work = [act for holder in holders.values() for act in (holder.watch(), _rotate(holder))]
        work += [parts.ages.watch(), watch_keys(door.keys, parts.db), door.quotas.share()]
        if parts.siblings.alone:  # else the parent process does
            work.append(keep_shipping(parts.settings, list(holders)))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            async with parts.siblings.listening():
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for taking in parts.pushes.values():
                taking.close()
            for holder in holders.values():
                holder.close()
            await door.quotas.close()
            door.audit.close()
            parts.db.close()

    return run


async def _rotate(holder: Holder) -> None:
    while True:
        await asyncio.sleep(ROTATE_SECONDS)
        holder.log.rotate()
