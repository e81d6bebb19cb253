"""`POST /v1/{use_case}/reload`: every worker of the server serves the champion now, not at its next look."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from fastapi import APIRouter
from fastapi.responses import Response

from millrace.errors import RequestError
from millrace.settings import Settings
from serving.online.champion import Holder
from serving.siblings import Siblings

QUESTION = "reload"


class Standing(msgspec.Struct, frozen=True):
    """What one worker serves, and why not something else."""

    version: int | None
    problem: str


def reload_router(holders: Mapping[str, Holder], siblings: Siblings, settings: Settings) -> APIRouter:
    """The admin route, which any worker answers for all."""
    router = APIRouter()

    async def reload_here(use_case: str) -> bytes:
        holder = holders[use_case]
        await holder.reload()
        return msgspec.json.encode(Standing(holder.served.version if holder.served else None, holder.problem))

    siblings.answer(QUESTION, reload_here)

    @router.post("/v1/{use_case}/reload")
    async def reload(use_case: str) -> Response:
        """Look who is champion and serve that; a version that could not be opened before is tried again.

        Answers what each worker serves then: 200 when all serve the champion, else 503 with the `problem` of those that
        do not, which go on with the version before it.
        """
        if use_case not in holders:
            what = "This server serves no use case of this name."
            raise RequestError(404, what, field="use_case", todo="See /v1/models.")
        told = await siblings.ask(f"{QUESTION} {use_case}", seconds=2 * settings.load_seconds)
        workers = [{"worker": number, **msgspec.json.decode(each)} for number, each in told.items()]
        status = 503 if any(each["problem"] or each["version"] is None for each in workers) else 200
        content = {"use_case": use_case, "workers": workers}
        return Response(msgspec.json.encode(content), status, media_type="application/json")

    return router
