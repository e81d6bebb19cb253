"""What `millrace deploy` makes on the configured Prefect server: schedules, and the automation that retrains.

Of each use case: a deployment for each line of its schedule, one for retraining, and an automation that runs that one
when a monitoring pass asks for it by an event. All wait for a worker of the work pool `millrace`. What is there already
as it should be is left alone, so a schedule that was paused stays paused. Nothing of the settings goes to the server,
secrets least of all: workers have them in their own environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from millrace.loader import find_folder, load_use_case
from millrace.settings import Settings, read_settings
from millrace.usecase import UseCase
from pipelines.deployment import POOL, check_server, no_server, place
from pipelines.events import RETRAIN, event_name, resource_of
from pipelines.schedules import WORKS

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.schemas.automations import AutomationCore

Did = Literal["created", "updated", "unchanged", "removed"]


@dataclass(frozen=True, slots=True)
class Made:
    """One object on the server and what was done to it; `schedule` is its cron line in UTC."""

    kind: Literal["work pool", "deployment", "automation"]
    name: str
    did: Did
    schedule: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A deployment as it should be."""

    flow: str
    name: str
    entrypoint: str
    parameters: dict[str, Any]
    variables: dict[str, Any]
    cron: str = ""

    @property
    def full_name(self) -> str:
        """As Prefect writes it."""
        return f"{self.flow}/{self.name}"


def deploy(use_cases: Sequence[str]) -> list[Made]:
    """Make what is missing and mend what differs.

    Raises `UseCaseError` before anything is made, and `MillraceError` when no server is configured or answers.
    """
    settings = read_settings()
    loaded = {name: load_use_case(name, settings) for name in use_cases}
    with _server() as client:
        made = [_make_pool(client)]
        for name, use_case in loaded.items():
            made += _deploy(client, use_case, _address(name, settings), settings)
    return made


def remove(use_cases: Sequence[str]) -> list[Made]:
    """Remove what `deploy` made for these use cases, as far as it is there; the work pool and past runs stay."""
    settings = read_settings()
    names = [Path(find_folder(name, settings)).name for name in use_cases]
    made = []
    with _server() as client:
        for name in names:
            made += _remove_automation(client, name)
            for full_name in (*(_scheduled_name(name, work) for work in WORKS), f"retrain/{name}"):
                made += _remove_deployment(client, full_name)
    return made


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    import httpx
    from prefect.client.orchestration import get_client

    check_server()
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.TransportError as error:
        raise no_server(error) from error


def _address(name: str, settings: Settings) -> str:
    """How a worker finds it: by its name among the use cases of the settings, else by its folder."""
    folder = find_folder(name, settings)
    return folder.name if folder.parent == settings.use_cases.resolve() else str(folder)


def _deploy(client: SyncPrefectClient, use_case: UseCase, address: str, settings: Settings) -> list[Made]:
    made = []
    for work in WORKS:
        name, line = _scheduled_name(use_case.name, work), getattr(use_case.schedule, work)
        if not line:
            made += _remove_deployment(client, name)
            continue
        parameters = {"use_case": address, "work": work, "hand_over": True}
        flow, _, short = name.partition("/")
        wanted = _Wanted(flow, short, "pipelines.scheduled.scheduled_flow", parameters, place(settings), line)
        made.append(_make_deployment(client, wanted))
    retrain = _Wanted("retrain", use_case.name, "pipelines.flows.retrain_flow", {"use_case": address}, place(settings))
    made.append(_make_deployment(client, retrain))
    deployment = client.read_deployment_by_name(retrain.full_name)
    made.append(_make_automation(client, _automation(use_case.name, deployment)))
    return made


def _scheduled_name(use_case: str, work: str) -> str:
    return f"scheduled/{use_case}-{work}"


def _make_pool(client: SyncPrefectClient) -> Made:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        return Made("work pool", POOL, "created")
    return Made("work pool", POOL, "unchanged")


def _make_deployment(client: SyncPrefectClient, wanted: _Wanted) -> Made:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.exceptions import ObjectNotFound

    did: Did = "created"
    try:
        found = client.read_deployment_by_name(wanted.full_name)
        did = "unchanged" if _is(found, wanted) else "updated"
    except ObjectNotFound:
        pass
    if did != "unchanged":
        line = CronSchedule(cron=wanted.cron, timezone="UTC") if wanted.cron else None
        client.create_deployment(
            client.create_flow_from_name(wanted.flow),
            name=wanted.name,
            entrypoint=wanted.entrypoint,
            parameters=wanted.parameters,
            work_pool_name=POOL,
            job_variables=wanted.variables,
            schedules=[DeploymentScheduleCreate(schedule=line)] if line else [],
            enforce_parameter_schema=False,
        )
    return Made("deployment", wanted.full_name, did, wanted.cron)


def _is(found: DeploymentResponse, wanted: _Wanted) -> bool:
    """Whether it is as it should be, whether its schedule is paused or not."""
    crons = [getattr(entry.schedule, "cron", "") for entry in found.schedules]
    is_so = (found.entrypoint, found.parameters, found.job_variables, found.work_pool_name, crons)
    should = [wanted.cron] if wanted.cron else []
    return is_so == (wanted.entrypoint, wanted.parameters, wanted.variables, POOL, should)


def _remove_deployment(client: SyncPrefectClient, full_name: str) -> list[Made]:
    from prefect.exceptions import ObjectNotFound

    try:
        client.delete_deployment(client.read_deployment_by_name(full_name).id)
    except ObjectNotFound:
        return []
    return [Made("deployment", full_name, "removed")]


def _automation(use_case: str, retrain: DeploymentResponse) -> AutomationCore:
    """Run the retrain deployment for each event that asks for it; the event's decision goes along, as text."""
    from datetime import timedelta

    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    trigger = EventTrigger(
        expect={event_name(RETRAIN)},
        match=ResourceSpecification({"prefect.resource.id": resource_of(use_case)}),
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
    parameters = {**retrain.parameters, "decision": "{{ event.payload.decision }}"}
    return AutomationCore(
        name=_automation_name(use_case),
        description="A monitoring pass decided to retrain; made by `millrace deploy`.",
        trigger=trigger,
        actions=[RunDeployment(deployment_id=retrain.id, parameters=parameters)],
    )


def _make_automation(client: SyncPrefectClient, wanted: AutomationCore) -> Made:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Made("automation", wanted.name, "created")
    if _essence(found[0]) == _essence(wanted):
        return Made("automation", wanted.name, "unchanged")
    client.delete_automation(found[0].id)
    client.create_automation(wanted.model_copy(update={"enabled": found[0].enabled}))
    return Made("automation", wanted.name, "updated")


def _essence(automation: AutomationCore) -> tuple[Any, ...]:
    """What it waits for and what it does then, whether it is enabled or not."""
    trigger: Any = automation.trigger
    acts: list[Any] = list(automation.actions)
    does = [(getattr(act, "deployment_id", None), getattr(act, "parameters", None)) for act in acts]
    return automation.description, set(getattr(trigger, "expect", ())), trigger.match.model_dump(), does


def _remove_automation(client: SyncPrefectClient, use_case: str) -> list[Made]:
    found = client.read_automations_by_name(_automation_name(use_case))
    for automation in found:
        client.delete_automation(automation.id)
    return [Made("automation", automation.name, "removed") for automation in found]


def _automation_name(use_case: str) -> str:
    return f"millrace: retrain {use_case}"
