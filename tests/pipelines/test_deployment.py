"""A training on a worker: what is asked of Prefect, how its run is watched, and what is told when nobody works."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed, Pending, Running, State

from millrace.errors import MillraceError, TrainingError
from millrace.settings import Settings, read_settings
from pipelines import deployment
from pipelines.launch import Job
from pipelines.workspace import open_workspace
from training.hardware import Hardware
from training.options import TrainOptions

AS_OF = datetime(2024, 1, 20, tzinfo=UTC)
JOB = Job("taxi", AS_OF, TrainOptions(seed=3, hardware=Hardware("cpu")))


class FakeServer:
    """Prefect's client as a training uses it: a flow run goes through the given states, and can be cancelled."""

    def __init__(self, *states: State[Any], pool: bool = True, workers: int = 1) -> None:
        self.states, self.pool, self.workers = list(states), pool, workers
        self.asked: dict[str, Any] = {}

    def read_work_pool(self, name: str) -> None:
        if not self.pool:
            raise ObjectNotFound(KeyError(name))

    def read_workers_for_work_pool(self, name: str, worker_filter: Any) -> list[str]:
        return ["worker"] * self.workers

    def create_flow_from_name(self, name: str) -> str:
        return f"flow {name}"

    def create_deployment(self, flow: str, **given: Any) -> str:
        self.asked["deployment"] = {"flow": flow, **given}
        return "deployment"

    def create_flow_run_from_deployment(self, found: str, **given: Any) -> Any:
        self.asked["run"] = given
        return self.read_flow_run("run")

    def read_flow_run(self, run: str) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return SimpleNamespace(id=run, name="quick-fox", state=state, state_name=state.name)

    def set_flow_run_state(self, run: str, state: State[Any]) -> None:
        self.states = [state, Cancelled()]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_POLL_S", 0.001)


def watch(server: Any, limit: timedelta | None = None) -> tuple[Any, list[str]]:
    told: list[str] = []
    return deployment._wait(server, server.read_flow_run("run"), told.append, limit), told


def test_a_flow_run_is_watched_until_its_end_and_each_state_told_once() -> None:
    run, told = watch(FakeServer(Pending(), Pending(), Running(), Running(), Completed()))
    assert run.state.is_completed()
    assert told == ["Flow run quick-fox: pending.", "Flow run quick-fox: running.", "Flow run quick-fox: completed."]


def test_a_flow_run_is_cancelled_at_the_limit() -> None:
    run, told = watch(FakeServer(Running()), timedelta(0))
    assert run.state.is_cancelled()
    assert told[-2:] == ["Flow run quick-fox: cancelling.", "Flow run quick-fox: cancelled."]


def test_a_flow_run_that_has_ended_is_not_waited_for() -> None:
    assert watch(FakeServer(Failed()))[1] == []


@pytest.mark.parametrize(
    ("server", "says"),
    [(FakeServer(Pending(), pool=False), "no work pool 'millrace'"), (FakeServer(Pending(), workers=0), "No worker")],
)
def test_without_a_worker_what_to_start_is_told(server: Any, says: str) -> None:
    with pytest.raises(MillraceError, match=says) as raised:
        deployment._check_worker(server)
    assert "prefect worker start --pool millrace --type process" in raised.value.todo


def test_the_run_gets_plain_json_and_the_folder_that_relative_settings_mean(environment: Settings) -> None:
    server: Any = FakeServer(Pending())
    deployment._start(server, JOB, environment)
    assert server.asked["deployment"]["entrypoint"] == "pipelines.flows.train_flow"
    assert server.asked["run"]["parameters"]["as_of"] == "2024-01-20T00:00:00+00:00"
    assert TrainOptions.from_dict(server.asked["run"]["parameters"]["options"]) == JOB.options
    assert server.asked["run"]["job_variables"] == {}  # every folder is absolute
    deployment._start(server, JOB, read_settings(home="here"))
    assert set(server.asked["run"]["job_variables"]) == {"working_dir"}


def test_the_entrypoint_is_the_flow_of_that_name() -> None:
    from importlib import import_module

    module, _, name = deployment._ENTRYPOINT.rpartition(".")
    assert getattr(import_module(module), name).name == deployment._FLOW


def test_what_became_of_it_is_read_from_the_database(environment: Settings) -> None:
    with open_workspace("taxi") as ws, ws.run("train", AS_OF) as detail:
        detail.update(version=3, promoted=False)
    found = deployment._outcome(JOB)
    assert (found["version"], found["promoted"], found["passed"]) == (3, False, False)


def test_a_worker_on_another_platform_is_told(environment: Settings) -> None:
    with pytest.raises(TrainingError, match="not in this platform's database") as raised:
        deployment._outcome(JOB)
    assert "MILLRACE_DATABASE_URL" in raised.value.todo
