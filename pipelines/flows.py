"""The flows: tables of contents of the stages, scheduled by Prefect or run in process.

A flow takes plain values, opens the workspace and calls stages as tasks; the stages do the work and know nothing of
Prefect. A flow run costs about a second, a task milliseconds (docs/decisions/0005-embedded-prefect.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings

from millrace.errors import BusyError, MillraceError
from pipelines import data, models, retraining, score_jobs, scoring, watching
from pipelines.events import RETRAIN, emit
from pipelines.retraining import Retrained
from pipelines.telling import tell_trained, tell_watched, told
from pipelines.workspace import Workspace, open_workspace
from serving.batch.spec import JobSpec
from training.options import TrainOptions

Outcome = dict[str, Any]
_FOR_A_PERSON = frozenset({"alert", "page"})
"""Decisions beside which nothing is retrained, on an earlier decision neither."""
P = ParamSpec("P")
R = TypeVar("R")


def stage(function: Callable[P, R]) -> Callable[P, R]:
    """A stage as a Prefect task inside a flow run, and as itself anywhere else."""
    as_task = task(name=function.__name__.replace("_", " "), cache_policy=NO_CACHE)(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return as_task(*args, **kwargs) if FlowRunContext.get() else function(*args, **kwargs)

    return call


ingest = stage(data.ingest)
materialize = stage(data.materialize)
train_and_gate = stage(models.train_and_gate)
score = stage(scoring.score)
score_job = stage(score_jobs.score_job)
watch = stage(watching.watch)
retrain = stage(retraining.retrain)


@flow(name="ingest", validate_parameters=False)
def ingest_flow(
    use_case: str,
    as_of: datetime,
    since: datetime | None = None,
    accept: Sequence[str] = (),
    home: Path | None = None,
) -> Outcome:
    """New rows into the lake, feature tables, fresh values into the online store."""
    with open_workspace(use_case, home) as ws, told(ws, "ingest"):
        done = ingest(ws, as_of=as_of, since=since, accept=accept)
        fresh = materialize(ws, as_of=as_of)
        return done.as_dict() | fresh.as_dict()


@flow(name="materialize", validate_parameters=False)
def materialize_flow(use_case: str, as_of: datetime, home: Path | None = None) -> Outcome:
    """Fresh values into the online store."""
    with open_workspace(use_case, home) as ws:
        return materialize(ws, as_of=as_of).as_dict()


@flow(name="train", validate_parameters=False)
def train_flow(
    use_case: str,
    as_of: datetime | str,
    options: Mapping[str, Any] | None = None,
    home: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Train, measure, gate, promote or refuse.

    A worker gets plain JSON: the moment as text, and `TrainOptions` as `to_dict` writes them.
    """
    moment = datetime.fromisoformat(as_of) if isinstance(as_of, str) else as_of
    given = TrainOptions.from_dict(options) if options else TrainOptions()
    with open_workspace(use_case, home) as ws, told(ws, "train"):
        done = train_and_gate(ws, as_of=moment, options=given, progress=progress).as_dict()
        tell_trained(ws, done)
        return done


@flow(name="score", validate_parameters=False)
def score_flow(
    use_case: str,
    start: datetime,
    until: datetime,
    as_of: datetime,
    output: Path | None = None,
    home: Path | None = None,
) -> Outcome:
    """Score every row of a stretch of time and log the predictions."""
    with open_workspace(use_case, home) as ws, told(ws, "score"):
        return score(ws, start=start, end=until, as_of=as_of, output=output).as_dict()


@flow(name="score job", validate_parameters=False)
def score_job_flow(
    use_case: str,
    spec: Mapping[str, Any],
    at: datetime | str,
    again: bool = False,
    home: Path | None = None,
    progress: Any = None,
) -> Outcome:
    """One batch scoring job from its input to its end; a worker gets plain JSON, as `JobSpec.to_dict` writes it.

    `progress` is a `pipelines.progress.Progress`, a type of which Prefect cannot make a schema.
    """
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    with open_workspace(use_case, home) as ws:
        return score_job(ws, JobSpec.from_dict(dict(spec)), at=moment, again=again, progress=progress).as_dict()


@flow(name="monitor", validate_parameters=False)
def monitor_flow(
    use_case: str, as_of: datetime, act: bool = True, hand_over: bool = False, home: Path | None = None
) -> Outcome:
    """Watch the last window, decide, and retrain when that is the decision, or an earlier one that nobody acted on.

    With `hand_over` an event asks the server's automation for the retrain; it is done here when that cannot be sent.
    """
    with open_workspace(use_case, home) as ws:
        with told(ws, "monitor"):
            seen = watch(ws, start=as_of - ws.use_case.monitor.window, end=as_of, as_of=as_of, report=True)
            tell_watched(ws, seen)
        decision = retraining.outstanding(ws, as_of) if act and seen.decision.action not in _FOR_A_PERSON else None
        if decision is None:
            return seen.as_dict()
        fresh = decision.as_of == as_of  # an earlier one was handed over and got lost, so it is not handed over again
        if fresh and hand_over and emit(ws.use_case.name, RETRAIN, decision=decision.id, reason=decision.reason):
            return seen.as_dict() | {"handed_over": True}
        done = _retrain(ws, decision.id)
        return seen.as_dict() | (
            {"decision": done.action, "reason": done.reason} if fresh else {"late": done.as_dict()}
        )


@flow(name="retrain", validate_parameters=False)
def retrain_flow(use_case: str, decision: int | str, home: Path | None = None) -> Outcome:
    """The retrain that a decision called for, once; an event gives its number as text."""
    if not str(decision).isdecimal():
        raise MillraceError(f"{decision!r} is no decision's number.", todo="Give one that was to retrain.")
    with open_workspace(use_case, home) as ws:
        return _retrain(ws, int(decision)).as_dict()


@flow(name="first champion", validate_parameters=False)
def first_champion_flow(
    use_case: str, as_of: datetime, home: Path | None = None, step: Callable[[str], None] | None = None
) -> Outcome:
    """From nothing to the first model that serves; `step` hears a line after each piece of work."""
    tell = step or _nobody
    with open_workspace(use_case, home) as ws:
        done = ingest(ws, as_of=as_of)
        tell(f"{done.rows:,} rows")
        fresh = materialize(ws, as_of=as_of)
        tell(f"{sum(view.entities for view in fresh.views):,} entities online")
        trained = train_and_gate(ws, as_of=as_of, why=f"The first model of {use_case}.", progress=tell)
        return trained.as_dict()


@flow(name="week", validate_parameters=False)
def week_flow(use_case: str, start: datetime, end: datetime, shadow: int, home: Path | None = None) -> Outcome:
    """One week of a replay: ingest, score, watch, decide, act; beside it the version `shadow`, left alone."""
    with open_workspace(use_case, home) as ws:
        ingest(ws, as_of=end)
        materialize(ws, as_of=end)
        score(ws, start=start, end=end, as_of=end, shadow=shadow)
        seen = watch(ws, start=start, end=end, as_of=end)
        if seen.due:
            done = train_and_gate(ws, as_of=end, why=seen.decision.reason)
            seen = watching.acted(ws, seen, done)
        return seen.as_dict()


def _retrain(ws: Workspace, decision: int) -> Retrained:
    """It is told of like any training; that somebody trains already is no failure."""
    try:
        with told(ws, "train"):
            done = retrain(ws, decision)
            if done.training is not None:
                tell_trained(ws, done.training.as_dict())
            return done
    except BusyError as error:
        return Retrained(decision, f"Another process is training. {error.looked}")


def _nobody(_: str) -> None:
    """Nobody listens."""


def run_flow(which: Any, **parameters: Any) -> Outcome:
    """Run a flow against the Prefect server that is configured, or, when none is, its function in this process.

    Without a server the stages do the same work and the platform's database records it; Prefect's own record is all
    that is missing, and the ten seconds that starting a server for it would take.
    """
    run = which if get_current_settings().api.url else which.fn
    outcome: Outcome = run(**parameters)
    return outcome
