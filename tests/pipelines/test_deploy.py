"""Schedules and automations on a real Prefect server with a real worker: made once, acted upon once, taken away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from millrace.errors import MillraceError, UseCaseError
from pipelines import deploy
from pipelines.events import emit
from pipelines.workspace import Workspace, open_workspace

from .prefect_server import environment, healthy, running, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]  # a flow run is a process that imports all of the platform
CASES = Path(__file__).parent / "cases"
AS_OF = datetime(2024, 1, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of an empty platform."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's URL of a server; a worker with the settings of that platform waits for its work."""
    folder = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = {"MILLRACE_HOME": str(home), "MILLRACE_USE_CASES": str(CASES)}
    env, url = environment(folder, port, **settings), f"http://127.0.0.1:{port}/api"
    serving = running(["server", "start", "--no-ui", "--port", str(port)], env, folder / "server.log")
    with serving, temporary_settings({PREFECT_API_URL: url}):
        wait_for("the server", lambda: healthy(url))
        working = ["worker", "start", "--pool", "millrace", "--type", "process", "--limit", "2"]
        with running(working, env, folder / "worker.log"):
            yield url


@pytest.fixture
def ws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open, and named by the environment."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    with open_workspace("taxi") as workspace:
        yield workspace


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def did(made: list[deploy.Made]) -> dict[str, str]:
    return {one.name: one.did for one in made}


NAMES = ["scheduled/taxi-ingest", "scheduled/taxi-score", "scheduled/taxi-monitor", "retrain/taxi"]


def test_a_use_case_is_deployed_with_its_schedule(ws: Workspace, client: SyncPrefectClient) -> None:
    made = deploy.deploy(["taxi"])
    assert did(made[1:]) == dict.fromkeys([*NAMES, "millrace: retrain taxi"], "created")
    found = client.read_deployment_by_name("scheduled/taxi-monitor")
    assert [(entry.schedule.cron, entry.schedule.timezone) for entry in found.schedules] == [("0 6 * * *", "UTC")]
    assert found.parameters == {"use_case": "taxi", "work": "monitor", "hand_over": True}
    assert found.job_variables == {}  # no setting goes to the server


def test_again_changes_nothing_not_even_a_paused_schedule(ws: Workspace, client: SyncPrefectClient) -> None:
    found = client.read_deployment_by_name("scheduled/taxi-ingest")
    client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    assert set(did(deploy.deploy(["taxi"])).values()) == {"unchanged"}
    assert not client.read_deployment_by_name("scheduled/taxi-ingest").schedules[0].active


def test_what_the_use_case_has_changed_is_mended(
    ws: Workspace, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "taxi").mkdir()
    text = (CASES / "taxi" / "use_case.py").read_text()
    lines = "    schedule=Schedule(monitor='0 7 * * mon', score=''),\n    slices="
    text = text.replace("    slices=", lines).replace("    Retrain,\n", "    Retrain,\n    Schedule,\n")
    (tmp_path / "taxi" / "use_case.py").write_text(text)
    monkeypatch.setenv("MILLRACE_USE_CASES", str(tmp_path))
    made = did(deploy.deploy(["taxi"]))
    assert made["scheduled/taxi-score"] == "removed"
    assert (made["scheduled/taxi-monitor"], made["retrain/taxi"]) == ("updated", "unchanged")
    found = client.read_deployment_by_name("scheduled/taxi-monitor")
    assert [entry.schedule.cron for entry in found.schedules] == ["0 7 * * mon"]
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    assert did(deploy.deploy(["taxi"]))["scheduled/taxi-score"] == "created"


def test_a_mistake_is_told_before_anything_is_made(ws: Workspace, server: str) -> None:
    with pytest.raises(UseCaseError, match="no use case 'bus'"):
        deploy.deploy(["taxi", "bus"])


def runs_of(client: SyncPrefectClient, deployment: str) -> list[Any]:
    found = client.read_deployment_by_name(deployment)
    runs = client.read_flow_runs()
    return [run for run in runs if run.deployment_id == found.id]


def ended(client: SyncPrefectClient, deployment: str, count: int) -> list[str]:
    """The states of that deployment's flow runs, once so many have ended."""

    def states() -> list[str]:
        found = [run.state_name for run in runs_of(client, deployment) if run.state.is_final()]
        return found if len(found) >= count else []

    found: list[str] = wait_for(f"the end of {count} runs of {deployment}", states, 400)
    return found


def test_scheduled_work_is_done_by_the_worker_once_for_what_was_missed(
    ws: Workspace, client: SyncPrefectClient
) -> None:
    found = client.read_deployment_by_name("scheduled/taxi-ingest")
    for _ in range(2):  # late runs of one schedule
        client.create_flow_run_from_deployment(found.id)
    assert ended(client, "scheduled/taxi-ingest", 2) == ["Completed"] * 2
    (run,) = ws.db.runs("taxi", "scheduled ingest")
    assert (run.state, run.as_of.minute) == ("done", 0)


def test_a_decision_travels_by_event_to_a_worker_that_retrains(ws: Workspace, client: SyncPrefectClient) -> None:
    ws.db.add_decision("taxi", as_of=AS_OF, action="retrain", reason="It has drifted.")
    assert emit("taxi", "retrain", decision=ws.db.decisions("taxi")[-1].id)
    assert ended(client, "retrain/taxi", 1) == ["Completed"]
    assert [(run.as_of, run.state) for run in ws.db.runs("taxi", "train")] == [(AS_OF, "done")]


def test_the_same_event_again_does_not_train_twice(ws: Workspace, client: SyncPrefectClient) -> None:
    number = next(row.id for row in ws.db.decisions("taxi") if row.action == "retrain")
    assert emit("taxi", "retrain", decision=number)
    assert ended(client, "retrain/taxi", 2) == ["Completed"] * 2
    assert len(ws.db.runs("taxi", "train")) == 1


def test_an_event_about_another_use_case_starts_nothing(ws: Workspace, client: SyncPrefectClient) -> None:
    assert emit("taxi_net", "retrain", decision=1)
    assert emit("taxi", "decision", action="nothing")
    assert len(runs_of(client, "retrain/taxi")) == 2


def test_what_was_made_is_taken_away(ws: Workspace, client: SyncPrefectClient) -> None:
    assert did(deploy.remove(["taxi"])) == dict.fromkeys([*NAMES, "millrace: retrain taxi"], "removed")
    assert deploy.remove(["taxi"]) == []


def test_without_a_server_it_is_told_what_to_start() -> None:
    unset = temporary_settings(restore_defaults={PREFECT_API_URL})
    with unset, pytest.raises(MillraceError, match="No Prefect server is configured") as raised:
        deploy.remove([])
    assert "prefect server start" in raised.value.todo


def test_a_server_that_is_away_costs_no_flow_an_event() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert not emit("taxi", "decision", action="nothing")
