"""Batch scoring jobs from asking to done: submitted once, held by one process, committed chunk by chunk, resumed.

The rooms read, score and write; here is the ledger. A job that has ended `done` is not done again; one that failed, was
cancelled, or whose process died goes on behind its last committed chunk when it is started again.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millrace.bundle import open_bundle
from millrace.db import ScoreChunkRow, ScoreJobRow
from millrace.errors import MillraceError, ScoreJobError
from millrace.keys import public_key
from millrace.settings import Settings
from pipelines.progress import Progress
from pipelines.workspace import Workspace
from serving.batch.plan import Choice, Chunk, ChunkDone, JobPlan
from serving.batch.spec import JobSpec, read_place
from serving.batch.submit import submit as ask

RunChunks = Callable[[JobPlan, Choice, Settings, Sequence[Chunk]], Iterator[ChunkDone]]
"""An engine: does chunks in any order and yields each as it is done."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobSummary:
    """Where a job stands: `rows` = `scored` + `rejected`; `repeated`: it had been done before and nothing was done now.

    `join` is how features came to the rows, `digest` is of all keys and scores, `reasons` why rows were rejected.
    """

    job: str
    use_case: str
    state: str
    version: int
    input: str
    output: str
    join: str
    rows: int
    scored: int
    rejected: int
    chunks: int
    resumed: int
    rows_per_second: float
    seconds: float
    engine: dict[str, Any]
    digest: str
    as_of: datetime
    ended_at: datetime | None
    repeated: bool
    reasons: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def submit(ws: Workspace, spec: JobSpec, *, at: datetime, again: bool = False) -> ScoreJobRow:
    """`serving.batch.submit.submit` in a workspace."""
    return ask(ws.use_case, ws.settings, ws.db, ws.lake, spec, at=at, again=again)


def score_job(
    ws: Workspace, spec: JobSpec, *, at: datetime, again: bool = False, progress: Progress | None = None
) -> JobSummary:
    """Submit a job and run it to its end."""
    return run_job(ws, submit(ws, spec, at=at, again=again).id, progress=progress, engine=spec.engine)


def run_job(ws: Workspace, job: str, *, progress: Progress | None = None, engine: str = "") -> JobSummary:
    """Do what is left of a job; one that is done is told as it is.

    Raises `BusyError`, saying who, when another living process runs it, and whatever stops it: the job is `failed`
    then, every committed chunk stays, and starting it again goes on. A cancelled job that is started goes on as well.
    """
    row = found(ws, job)
    if row.state == "done":
        return summary(ws, row, repeated=True)
    with ws.db.lease(f"score-job {row.id}"):
        row = found(ws, row.id)  # it may have been done while this process waited
        if row.state == "done":
            return summary(ws, row, repeated=True)
        with _recorded(ws, row):
            return _run(ws, row, progress, engine or JobSpec.from_dict(row.spec).engine)


def found(ws: Workspace, job: str) -> ScoreJobRow:
    """The job of this id, or of the one id that begins so; `ScoreJobError` when there is none of this use case."""
    ids = ws.db.score_jobs.named(ws.use_case.name, job) if job else []
    row = ws.db.score_jobs.get(ids[0]) if len(ids) == 1 else None
    if row is not None:
        return row
    raise ScoreJobError(
        f"{ws.use_case.name} has {'more than one' if ids else 'no'} batch scoring job {job!r}.",
        todo=f"See them: millrace jobs list {ws.use_case.name}",
    )


def cancel(ws: Workspace, job: str) -> ScoreJobRow:
    """Cancel a job: a queued one at once, a running one after its current chunks. One that has ended stays as it is."""
    row = found(ws, job)
    ws.db.score_jobs.cancel(row.id)
    return found(ws, row.id)


def summary(
    ws: Workspace, row: ScoreJobRow, *, repeated: bool = False, resumed: int = 0, seconds: float = 0
) -> JobSummary:
    """What the ledger says of a job."""
    reasons: dict[str, int] = {}
    for chunk in ws.db.score_jobs.chunks(row.id):
        for reason, count in chunk.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return JobSummary(
        job=row.id,
        use_case=row.use_case,
        state=row.state,
        version=row.version,
        input=row.spec["input"],
        output=row.spec["output"],
        join=row.plan.get("join", row.spec["join"]),
        rows=row.rows,
        scored=row.scored,
        rejected=row.rejected,
        chunks=row.chunks,
        resumed=resumed,
        rows_per_second=round(row.rows / seconds) if seconds else 0.0,
        seconds=round(seconds, 2),
        engine=dict(row.engine),
        digest=row.digest,
        as_of=row.as_of,
        ended_at=row.ended_at,
        repeated=repeated,
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:5]),
    )


def _run(ws: Workspace, row: ScoreJobRow, progress: Progress | None, engine: str) -> JobSummary:
    began, jobs = time.monotonic(), ws.db.score_jobs
    jobs.change(row.id, state="running", error="", ended_at=None, started_at=row.started_at or datetime.now(UTC))
    plan = _planned(ws, row)
    choice = _chosen(ws, row, plan)
    done = {chunk.index for chunk in jobs.chunks(row.id)}
    left = [chunk for chunk in plan.chunks if chunk.index not in done]
    watched = _Watched(progress, plan, left)
    state = "running"
    with closing(_engine(engine)(plan, choice, ws.settings, left)) as answers:  # type: ignore[type-var]  # a generator
        for one in answers:
            state = jobs.commit(ScoreChunkRow(job=row.id, **asdict(one)))
            watched.advance(one)
            if state == "cancelled":
                break
    if state != "cancelled":
        state = "done"
        jobs.change(row.id, state=state, digest=_digest(jobs.chunks(row.id)), ended_at=datetime.now(UTC))
        shutil.rmtree(plan.folder, ignore_errors=True)
    watched.done(state)
    return summary(ws, found(ws, row.id), resumed=len(done), seconds=time.monotonic() - began)


@contextmanager
def _recorded(ws: Workspace, row: ScoreJobRow) -> Iterator[None]:
    """What stops the job is in the ledger, if the ledger can be written."""
    try:
        yield
    except BaseException as error:
        said = error.what if isinstance(error, MillraceError) else f"{type(error).__name__}: {error}"
        try:
            if ws.db.score_jobs.state(row.id) == "running":
                ws.db.score_jobs.change(row.id, state="failed", error=said, ended_at=datetime.now(UTC))
        except Exception:  # the disk that is full may be the ledger's too; the job stays running and can be started
            _logger.exception("the end of score job %s could not be recorded", row.id)
        raise


def _planned(ws: Workspace, row: ScoreJobRow) -> JobPlan:
    """The plan that the job began with, or a new one, recorded before the first chunk."""
    if row.plan:
        return JobPlan.from_dict(row.plan)
    from serving.batch.planning import Job, make_plan

    spec, model = JobSpec.from_dict(row.spec), ws.db.model(ws.use_case.name, row.version)
    if model is None:
        raise ScoreJobError(f"{ws.use_case.name} has no version {row.version} any more.", todo="Start the job again.")
    place = read_place(spec.input, "input")
    job = Job(row.id, spec, place, row.version, model.bundle, row.as_of, row.created_at)
    plan = make_plan(job, ws.use_case, ws.settings, ws.lake)
    ws.db.score_jobs.change(row.id, plan=plan.to_dict(), chunks=len(plan.chunks), total=plan.rows)
    return plan


def _chosen(ws: Workspace, row: ScoreJobRow, plan: JobPlan) -> Choice:
    """How the model is run: as the job began, as this version ran on this machine before, or by trying."""
    from serving.batch import calibration

    known = row.engine or ws.db.score_jobs.engine_of(row.use_case, row.version, calibration.machine())
    if known:
        choice = Choice.from_dict(known)
    else:
        bundle = open_bundle(Path(plan.bundle), public_key=public_key(ws.settings))
        choice = calibration.calibrate(bundle, ws.settings, budget=calibration.BUDGET_SECONDS)
    ws.db.score_jobs.change(row.id, engine=choice.to_dict())
    return choice


def _engine(name: str) -> RunChunks:
    from serving.batch import cluster, local

    return cluster.run_chunks if name == "ray" else local.run_chunks


def _digest(chunks: Sequence[ScoreChunkRow]) -> str:
    """Of the whole output: the chunks' digests in their order."""
    return hashlib.sha256("".join(chunk.digest for chunk in chunks).encode()).hexdigest()[:16]


class _Watched:
    """Tells the progress: a step a chunk, with rows a second and the time that is left."""

    def __init__(self, progress: Progress | None, plan: JobPlan, left: Sequence[Chunk]) -> None:
        self._progress, self._began = progress, time.monotonic()
        self._rows, self._all = 0, sum(chunk.rows for chunk in left)
        if progress is not None:
            progress.start(f"score {plan.rows:,} rows", len(left))

    def advance(self, done: ChunkDone) -> None:
        """A chunk is done."""
        self._rows += done.rows
        if self._progress is None:
            return
        rate = self._rows / max(time.monotonic() - self._began, 1e-3)
        left = max(self._all - self._rows, 0) / max(rate, 1e-3)
        self._progress.advance(f"{rate:,.0f} rows/s, {left:,.0f} s left")

    def done(self, state: str) -> None:
        """The job is over, or was cancelled."""
        if self._progress is not None:
            self._progress.done(f"{self._rows:,} rows", failed=state != "done")
