"""`/v1/{use_case}/jobs`: batch scoring jobs, asked for and followed over HTTP.

A job is recorded in the ledger and left to a process of its own (`millrace jobs work`), which this server starts when
none runs, unless the settings leave that to others. Over HTTP a job reads and writes only the use case's lake and the
files of the exchange folder: who holds a key for predictions shall not reach the rest of the machine. What a job does
is `serving.batch`' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta

from millrace.db import Database, ScoreJobRow
from millrace.errors import LakeError, RequestError, ScoreJobError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.answer import read_json
from serving.batch.spec import JobSpec, Join, LakeTable, SqlRows, read_place
from serving.job_worker import JobWorker
from serving.online.batcher import Overload
from serving.protocols.bodies import decode, refuse_duplicates

MAX_WAITING = 100
"""Most jobs of one use case that wait to be run; beyond it: 429."""
MAX_LISTED = 100
SCORES = "scores/"
"""What the name of an output table begins with: a job over HTTP writes no other table of the lake."""
_Text = Annotated[str, Meta(min_length=1, max_length=1_024)]
_Instant = Annotated[datetime, Meta(tz=True)] | None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """The body of a POST."""

    input: _Text
    output: _Text
    join: Join = "auto"
    as_of: _Instant = None
    start: _Instant = None
    until: _Instant = None
    log: bool = True
    again: bool = False


_DECODER = msgspec.json.Decoder(Asked)


class Jobs:
    """The jobs of one use case."""

    def __init__(
        self, use_case: UseCase, settings: Settings, db: Database, *, clock: Callable[[], datetime], worker: JobWorker
    ) -> None:
        self._use_case, self._settings, self._db = use_case, settings, db
        self._clock, self._worker = clock, worker

    def start(self, body: bytes) -> tuple[bool, ScoreJobRow]:
        """Record the job that a body asks for, and see that it is run: whether it still has to be, and its row.

        Raises `RequestError` (400, 404, 422) naming the field, `Overload` when too many wait, `NoChampionError`.
        """
        from millrace.lake import open_lake  # the lake's libraries are large, and most servers get no job
        from serving.batch.submit import submit

        asked = decode(body, _DECODER)
        refuse_duplicates(body, -1)  # of no known number of keys: it is short, so it is read again
        if len(self._db.score_jobs.list(self._use_case.name, state="queued", limit=MAX_WAITING)) >= MAX_WAITING:
            raise Overload("jobs", "Too many jobs are waiting.", status=429, retry_after=60)
        name, given = self._use_case.name, msgspec.structs.asdict(asked)
        again = given.pop("again")
        spec = JobSpec(use_case=name, **(given | _confined(asked, self._settings)))
        lake = open_lake(self._settings, name)
        try:
            row = submit(self._use_case, self._settings, self._db, lake, spec, at=self._clock(), again=again)
        except (ScoreJobError, LakeError) as error:  # its `looked` names the server's folders: for the log alone
            raise RequestError(422, error.what, field="input", looked=error.looked, todo=error.todo) from error
        if row.state in ("failed", "cancelled"):
            self._db.score_jobs.change(row.id, state="queued", error="", ended_at=None)
        return row.state != "done", self.one(row.id)

    def of_state(self, state: str) -> Sequence[ScoreJobRow]:
        """The newest jobs (in this state)."""
        return self._db.score_jobs.list(self._use_case.name, state=state, limit=MAX_LISTED)

    def one(self, job: str) -> ScoreJobRow:
        """The job of this id; `RequestError` (404) when the use case has none. One that waits wakes the worker."""
        row = self._db.score_jobs.get(job[:64])
        if row is None or row.use_case != self._use_case.name:
            what = "This use case has no job of this id."
            raise RequestError(404, what, field="job", todo=f"See /v1/{self._use_case.name}/jobs.")
        if row.state == "queued":  # the last look of a worker that was about to end may have missed it
            self._worker.wake()
        return row

    def cancel(self, job: str) -> ScoreJobRow:
        """Cancel it; `RequestError` (409) when it has ended already."""
        row = self.one(job)
        if not self._db.score_jobs.cancel(row.id):
            raise RequestError(409, f"The job is {row.state} already.", field="job")
        return self.one(job)

    def told(self, row: ScoreJobRow) -> dict[str, Any]:
        """What a client sees of a job."""
        done = row.chunks if row.state == "done" else self._db.score_jobs.done(row.id)
        asked = {name: row.spec.get(name) for name in ("input", "output", "join", "as_of", "start", "until")}
        asked["from"] = asked.pop("start")
        home = str(exchange(self._settings)) + "/"
        counts = {"chunks": row.chunks, "chunks_done": done, "total": row.total}
        return {
            "job": row.id,
            "state": row.state,
            "version": row.version,
            **{name: text.removeprefix(home) if isinstance(text, str) else text for name, text in asked.items()},
            **counts,
            **{name: getattr(row, name) for name in ("rows", "scored", "rejected", "digest")},
            "error": row.error.replace(home, ""),
            **{name: getattr(row, name) for name in ("created_at", "started_at", "ended_at")},
        }


def jobs_router(
    use_cases: Sequence[UseCase], settings: Settings, db: Database, *, clock: Callable[[], datetime]
) -> APIRouter:
    """The routes of batch scoring jobs."""
    worker = JobWorker(settings, [use_case.name for use_case in use_cases])
    jobs = {one.name: Jobs(one, settings, db, clock=clock, worker=worker) for one in use_cases}
    router, limit = APIRouter(), settings.request_mb * 1_000_000

    @router.post("/v1/{use_case}/jobs", openapi_extra=_DESCRIBED)
    async def start_job(use_case: str, request: Request) -> Response:
        """Score many rows, in a process of its own: `{"input": "june.parquet", "output": "june-scores"}`.

        `input` is a file, folder or pattern of the exchange folder, or `lake:TABLE[@VERSION]`; `output` a folder of the
        exchange folder, or `lake:scores/NAME`. 202 when the job waits or runs; 200 when it was done before: the same
        job is not run twice unless `again`. Follow it at its `url`.
        """
        of = _of(jobs, use_case)
        waits, row = await asyncio.to_thread(of.start, await read_json(request, limit))
        url = f"/v1/{use_case}/jobs/{row.id}"
        return _json(of.told(row) | {"url": url}, 202 if waits else 200, {"location": url})

    @router.get("/v1/{use_case}/jobs")
    def list_jobs(use_case: str, state: str = "") -> Response:
        """The newest jobs (in this state), the newest first."""
        of = _of(jobs, use_case)
        return _json({"jobs": [of.told(row) for row in of.of_state(state[:32])]})

    @router.get("/v1/{use_case}/jobs/{job}")
    def show_job(use_case: str, job: str) -> Response:
        """How far a job is: its state, chunks and rows, and why it failed if it did."""
        of = _of(jobs, use_case)
        return _json(of.told(of.one(job)))

    @router.post("/v1/{use_case}/jobs/{job}/cancel")
    def cancel_job(use_case: str, job: str) -> Response:
        """Cancel a job: one that runs stops after the chunks that it is at. Its scores so far stay where they are."""
        of = _of(jobs, use_case)
        return _json(of.told(of.cancel(job)))

    return router


def exchange(settings: Settings) -> Path:
    """The folder of the files that jobs over HTTP may read and write, absolute."""
    return (settings.exchange or settings.home / "exchange").absolute()


def _confined(asked: Asked, settings: Settings) -> dict[str, str]:
    """Input and output as the ledger has them, within what a request may reach."""
    return {name: _within(getattr(asked, name), name, settings) for name in ("input", "output")}


def _within(text: str, field: Literal["input", "output"], settings: Settings) -> str:
    if "\0" in text:
        raise RequestError(422, "A text must not have a NUL character.", field=field)
    try:
        place = read_place(text, field)
    except ScoreJobError as error:
        raise RequestError(422, f"This is no {field} of a batch scoring job.", field=field, todo=error.todo) from None
    if isinstance(place, SqlRows):
        what = "Jobs over HTTP neither read nor write databases."
        raise RequestError(422, what, field=field, todo="Start it where Millrace runs: millrace score … --input sql:…")
    if isinstance(place, LakeTable):
        if field == "output" and not place.table.startswith(SCORES):
            what = f"The name of an output table begins with {SCORES}."
            raise RequestError(422, what, field=field, todo=f"Write lake:{SCORES}NAME.")
        return text
    home = exchange(settings).resolve()
    found = (home / text).resolve()
    if not found.is_relative_to(home) or found == home or Path(text).is_absolute():
        what = "Jobs over HTTP read and write only files of the exchange folder."
        raise RequestError(422, what, field=field, todo="Give a path within it, such as june/*.parquet.")
    return str(found)


def _of(jobs: Mapping[str, Jobs], use_case: str) -> Jobs:
    if use_case not in jobs:
        what = "This server serves no use case of this name."
        raise RequestError(404, what, field="use_case", todo="See /v1/models.")
    return jobs[use_case]


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, dict(headers or {}), media_type="application/json")


_DESCRIBED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": msgspec.json.schema(Asked),
                "examples": {"files": {"value": {"input": "june.parquet", "output": "june-scores"}}},
            }
        },
    },
    "responses": {"202": {"description": "The job waits or runs."}},
}
