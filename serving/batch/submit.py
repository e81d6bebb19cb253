"""A job is asked for: recorded in the ledger, or found there, since the same job is not done twice."""

from __future__ import annotations

import hashlib
from datetime import datetime

from millrace.db import Database, ScoreJobRow
from millrace.lake import Lake
from millrace.loader import find_folder
from millrace.registry import champion
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.batch.inputs import identify
from serving.batch.spec import JobSpec, read_place, write_place


def submit(
    use_case: UseCase,
    settings: Settings,
    db: Database,
    lake: Lake,
    spec: JobSpec,
    *,
    at: datetime,
    again: bool = False,
) -> ScoreJobRow:
    """Record what is asked for as `queued`, or find it: the same rows for the same model and output are one job.

    With `again` a job that is done gets another attempt. `at` is the moment of asking. Raises `NoChampionError` before
    there is one, `ScoreJobError` for a text that is no input or output, and what looking at the input raises.
    """
    spec = spec.checked()
    model = champion(db, use_case.name)
    place, rows = identify(read_place(spec.input, "input"), lake)
    identity = spec.identity(name=use_case.name, version=model.version, rows=rows)
    last = db.score_jobs.last(identity)
    if last is not None and not (again and last.state == "done"):
        return last
    attempt = last.attempt + 1 if last is not None else 1
    folder = str(find_folder(spec.use_case, settings))
    pinned = JobSpec.from_dict(spec.to_dict() | {"input": write_place(place), "use_case": folder})
    job = ScoreJobRow(
        id=hashlib.sha256(f"{identity}:{attempt}".encode()).hexdigest()[:16],
        identity=identity,
        attempt=attempt,
        use_case=use_case.name,
        version=model.version,
        spec=pinned.to_dict(),
        as_of=spec.as_of or at,
        created_at=at,
    )
    db.score_jobs.add(job)
    return db.score_jobs.get(job.id) or job
