"""One of torchrun's processes that does not lead: it takes part in the fits of networks and leaves nothing.

The first process trains, measures, judges, registers and talks, as without torchrun. The others read the same rows and
make the same models, since a network is fitted by all of them at once, and throw away what they made.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from millrace.db import Database
from millrace.lake import open_lake
from millrace.loader import load_use_case
from millrace.registry import registered
from millrace.settings import Settings, read_settings
from millrace.usecase import UseCase
from pipelines.aside import platform_aside, rows_aside
from pipelines.launch import Job
from training.job import train
from training.tracking import Untracked
from training.warm_start import Parent, open_parent


def follow(job: Job) -> None:
    """Fit what the first process fits. The lake must not change meanwhile: all must read the same rows."""
    settings = read_settings()
    use_case = load_use_case(job.use_case, settings)
    with TemporaryDirectory(prefix="millrace-follow-") as name:
        shared = {"lake_url": settings.lake, "lake_options": settings.lake_options}
        aside = platform_aside(Path(name), settings).model_copy(update=shared)
        rows, plan = rows_aside(use_case, aside, open_lake(settings, use_case.name), as_of=job.as_of)
        again = partial(train, use_case, aside, rows, plan, tracking=Untracked())
        again(as_of=job.as_of, options=job.options, parent=_parent(job, use_case, settings))


def _parent(job: Job, use_case: UseCase, settings: Settings) -> Parent | None:
    if job.options.parent is None:
        return None
    db = Database.open(settings)
    try:
        return open_parent(settings, use_case, registered(db, use_case.name, job.options.parent))
    finally:
        db.close()
