"""A training on a Prefect worker: `train_flow` as a deployment of the configured server's work pool, run once.

The worker has the platform's settings in its own environment and opens the same stores; nothing of ours but the use
case's name, the moment and the options goes through Prefect. What became of the training stands in our database, which
is asked afterwards: Prefect keeps no results for us.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import MillraceError, TrainingError, first_line
from millrace.settings import Settings, read_settings
from pipelines.launch import Job
from pipelines.workspace import open_workspace

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

Tell = Callable[[str], None]

POOL = "millrace"
"""The work pool: `prefect worker start --pool millrace --type process`."""
_FLOW, _DEPLOYMENT, _ENTRYPOINT = "train", "millrace", "pipelines.flows.train_flow"
_POLL_S = 1.0
_START_WORKER = f"Start a worker with this platform's settings: prefect worker start --pool {POOL} --type process."


def on_worker(job: Job, tell: Tell | None = None, *, limit: timedelta | None = None) -> dict[str, Any]:
    """Run it on a worker and wait; `tell` hears each state of its flow run. At `limit` the flow run is cancelled.

    When this process ends before, the training goes on. Raises `MillraceError` when no Prefect server is configured or
    answers, or no worker waits for work; `TrainingError` when the flow run ends otherwise than completed.
    """
    import httpx
    from prefect.client.orchestration import get_client

    check_server()
    try:
        with get_client(sync_client=True) as client:
            _check_worker(client)
            run = _wait(client, _start(client, job, read_settings()), tell, limit)
    except httpx.HTTPError as error:
        raise no_server(error) from error
    if run.state is None or not run.state.is_completed():
        raise TrainingError(
            f"The training on the worker ended as {run.state_name}.",
            looked=(run.state.message or "") if run.state else "",
            todo=f"See its log: prefect flow-run logs {run.id}; the champion is untouched.",
        )
    return {"flow_run": str(run.id)} | _outcome(job)


def check_server() -> None:
    """Raises `MillraceError` when no Prefect server is configured, or it does not answer."""
    import httpx
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        raise MillraceError(
            "No Prefect server is configured, so there is no worker to run on.",
            looked="PREFECT_API_URL is not set.",
            todo=f"Start one (prefect server start) and set PREFECT_API_URL=http://127.0.0.1:4200/api. {_START_WORKER}",
        )
    try:
        httpx.get(f"{url}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise no_server(error) from error


def no_server(error: Exception) -> MillraceError:
    """What to raise when the server went away."""
    return MillraceError(
        "Prefect's server does not answer.",
        looked=f"Asked PREFECT_API_URL: {first_line(error)}.",
        todo="Start it (prefect server start), or leave PREFECT_API_URL empty and work without one.",
    )


def _check_worker(client: SyncPrefectClient) -> None:
    """Somebody must be there to take the work: a flow run that nobody takes waits for ever."""
    from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    try:
        client.read_work_pool(POOL)
        found = client.read_workers_for_work_pool(POOL, worker_filter=online)
    except ObjectNotFound as error:
        raise MillraceError(f"Prefect has no work pool {POOL!r}.", todo=_START_WORKER) from error
    if not found:
        raise MillraceError(f"No worker of Prefect's work pool {POOL!r} is online.", todo=_START_WORKER)


def _start(client: SyncPrefectClient, job: Job, settings: Settings) -> FlowRun:
    """Declare the deployment, which changes nothing when it is there, and ask for one run of it."""
    deployment = client.create_deployment(
        client.create_flow_from_name(_FLOW),
        name=_DEPLOYMENT,
        entrypoint=_ENTRYPOINT,
        work_pool_name=POOL,
        enforce_parameter_schema=False,
    )
    parameters = {"use_case": job.use_case, "as_of": job.as_of.isoformat(), "options": job.options.to_dict()}
    return client.create_flow_run_from_deployment(deployment, parameters=parameters, job_variables=place(settings))


def place(settings: Settings) -> dict[str, Any]:
    """Relative folders in the settings mean this folder: a worker on this machine is told it, others need none."""
    relative = not settings.home.is_absolute() or not settings.use_cases.is_absolute()
    return {"working_dir": str(Path.cwd())} if relative else {}


def _wait(client: SyncPrefectClient, run: FlowRun, tell: Tell | None, limit: timedelta | None) -> FlowRun:
    from prefect.states import Cancelling

    deadline = None if limit is None else time.monotonic() + limit.total_seconds()
    seen = ""
    while run.state is None or not run.state.is_final():
        if deadline is not None and time.monotonic() > deadline:
            client.set_flow_run_state(run.id, Cancelling(message="The training's limit has passed."))
            deadline = None
        time.sleep(_POLL_S)
        run = client.read_flow_run(run.id)
        if tell is not None and run.state_name and run.state_name != seen:
            seen = run.state_name
            tell(f"Flow run {run.name}: {seen.lower()}.")
    return run


def _outcome(job: Job) -> dict[str, Any]:
    """What the training left in the database: the newest training of this use case for this moment."""
    with open_workspace(job.use_case) as ws:
        done = [run for run in ws.db.runs(ws.use_case.name, "train") if run.as_of == job.as_of and run.state == "done"]
        if not done or "version" not in done[0].detail:
            raise TrainingError(
                "The worker's training is not in this platform's database.",
                looked=f"It has none of {ws.use_case.name} as of {job.as_of:%Y-%m-%d %H:%M} UTC.",
                todo="Give the worker this platform's settings: MILLRACE_DATABASE_URL and the others.",
            )
        row = ws.db.model(ws.use_case.name, int(done[0].detail["version"]))
        passed = bool(row and row.verdict.get("passed"))
        reasons = " ".join(row.verdict.get("against") or row.verdict.get("reasons", ())) if row else ""
        return {"as_of": job.as_of, **done[0].detail, "passed": passed, "reason": reasons}
