"""A training in a process of its own: its lines, its answer, its error, and an end that leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer.main

from millrace import Candidate, UseCase
from millrace.cli import app, main
from millrace.errors import GateError, MillraceError, TrainingError
from millrace.loader import load_use_case
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import Settings
from pipelines import data, launch
from pipelines.launch import Job, arguments, default_limit, run_limited
from pipelines.workspace import Workspace, open_workspace
from training.hardware import Hardware
from training.options import TrainOptions

AS_OF = datetime(2024, 1, 20, tzinfo=UTC)
LONG = timedelta(minutes=5)
FULL = TrainOptions(
    seed=3,
    trials=5,
    timeout=timedelta(minutes=2),
    resume=True,
    parent=4,
    hardware=Hardware("cpu", 2, 1),
    budget={"p99_ms": 5.0, "roc_auc": 0.6},
)


def child(code: str, *, limit: timedelta = LONG, tell: Any = None, environment: Mapping[str, str] = os.environ) -> str:
    """What a Python child of ours answers."""
    return run_limited([sys.executable, "-c", code], environment, limit=limit, tell=tell)


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits to be noticed does not)."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone(pid: int) -> bool:
    """Whether a process ends within a while."""
    for _ in range(500):
        if not alive(pid):
            return True
        time.sleep(0.02)
    return False


def test_the_answer_is_its_output_and_its_lines_are_told() -> None:
    told: list[str] = []
    code = "import sys; print('one', file=sys.stderr); print('two', file=sys.stderr); print('{\"a\": 1}')"
    assert json.loads(child(code, tell=told.append)) == {"a": 1}
    assert told == ["one", "two"]


def test_more_output_than_a_pipe_holds_arrives_whole() -> None:
    code = "import sys; sys.stderr.write(('y' * 99 + '\\n') * 5000); print('x' * 500000)"
    assert len(child(code).strip()) == 500_000


def test_its_error_is_raised_as_it_was_there() -> None:
    code = (
        "from millrace import console; from millrace.errors import GateError\n"
        "console.show_error(GateError('no', looked='here', todo='try'), True); raise SystemExit(8)"
    )
    with pytest.raises(GateError) as raised:
        child(code)
    assert (raised.value.what, raised.value.looked, raised.value.todo) == ("no", "here", "try")
    assert raised.value.exit_code == 8


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import sys; print('last words', file=sys.stderr); raise SystemExit(1)", "last words"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL. It may have taken more memory"),
        ('import sys; print(\'{"error": "ValueError"}\', file=sys.stderr); raise SystemExit(1)', "exit code 1"),
        ("import sys; print('{\"error\": broken', file=sys.stderr); raise SystemExit(1)", '{"error": broken'),
    ],
)
def test_an_end_without_an_error_of_ours_is_told(code: str, says: str) -> None:
    with pytest.raises(TrainingError) as raised:
        child(code)
    assert says in str(raised.value)


HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", deaf])
print(grandchild.pid, file=sys.stderr, flush=True)
time.sleep(600)
"""


def test_what_hangs_is_killed_with_all_it_started_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_S", 0.2)
    told: list[str] = []
    with pytest.raises(TrainingError, match=r"ended after 3 s, its limit; the champion is untouched"):
        child(HANGS, limit=timedelta(seconds=3), tell=told.append)
    assert gone(int(told[0]))


def test_what_can_be_asked_to_end_cleans_up_first(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "try:\n print('up', file=sys.stderr, flush=True); time.sleep(600)\n"
        f"finally: pathlib.Path({str(tmp_path / 'cleaned')!r}).touch()"
    )
    with pytest.raises(TrainingError, match="its limit"):
        child(code, limit=timedelta(seconds=2))
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_asked_to_end_takes_the_child_with_it(number: signal.Signals) -> None:
    code = (
        "import os, sys\nfrom datetime import timedelta\nfrom pipelines.launch import run_limited\n"
        "child = 'import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)'\n"
        "tell = lambda line: print(line, flush=True)\n"
        "run_limited([sys.executable, '-c', child], os.environ, limit=timedelta(minutes=9), tell=tell)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(60)
    assert gone(pid)


def test_every_option_reaches_the_child() -> None:
    command: Any = typer.main.get_command(app)
    train = command.commands["train"]
    given = arguments(Job("taxi", AS_OF, FULL))[1:]
    parsed = train.make_context("train", given).params
    assert (parsed["use_case"], parsed["as_of"], parsed["seed"], parsed["trials"]) == ("taxi", AS_OF, 3, 5)
    assert (parsed["timeout"], parsed["resume"], parsed["parent"]) == (timedelta(minutes=2), True, 4)
    assert (parsed["device"].value, parsed["processes"]) == ("cpu", 2)
    assert parsed["budget"] == {"p99_ms": 5.0, "roc_auc": 0.6}


def test_the_default_options_reach_the_child_too() -> None:
    command: Any = typer.main.get_command(app)
    parsed = command.commands["train"].make_context("train", arguments(Job("taxi", AS_OF, TrainOptions()))[1:]).params
    assert (parsed["timeout"], parsed["resume"], parsed["parent"], parsed["budget"]) == (None, False, None, None)


def taxi(settings: Settings) -> UseCase:
    return load_use_case("taxi", settings)


def test_the_default_limit_lets_every_fit_take_its_time(environment: Settings) -> None:
    minute = timedelta(minutes=1)
    fast = replace(taxi(environment).candidates[0], search={"C": (1.0, 2.0)}, timeout=minute)
    coin = Candidate("coin", fast.build, timeout=minute)
    use_case = replace(taxi(environment), baseline=coin, candidates=(fast,))
    assert default_limit(use_case, TrainOptions()) == timedelta(minutes=17)
    assert default_limit(use_case, TrainOptions(trials=4)) == timedelta(minutes=17 + 12)
    assert default_limit(use_case, TrainOptions(trials=4, timeout=2 * minute)) == timedelta(minutes=17 + 2)


def test_a_training_in_a_process_of_its_own_ends_with_the_childs_error(
    environment: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")  # only the child asks
    with pytest.raises(SystemExit) as end:
        main(["train", "taxi", "--as-of", "2024-01-20", "--launch", "subprocess", "--json"])
    assert end.value.code == 2
    said = json.loads(capsys.readouterr().err)
    assert (said["error"], "MILLRACE_DATABASE_URL" in str(said)) == ("SettingsError", True)


@pytest.fixture(scope="module")
def network_home(network_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a platform that has the rows of `taxi_net`."""
    home = tmp_path_factory.mktemp("network")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(network_cases))
        with open_workspace("taxi_net", home) as ws:
            data.ingest(ws, as_of=AS_OF)
    return home


@pytest.fixture
def network(network_home: Path, network_cases: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open, and named by the environment."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(network_cases))
    monkeypatch.setenv("MILLRACE_HOME", str(network_home))
    with open_workspace("taxi_net") as ws:
        yield ws


def devices(ws: Workspace) -> list[str]:
    """On what the network was fitted in each training, and why, the newest first."""
    client = mlflow_client(ws.settings)
    runs = client.search_runs([experiment_id(client, ws.settings, "taxi_net")], "attributes.run_name = 'net'")
    return [run.data.tags["millrace.device"] for run in runs]


def test_a_training_in_a_process_of_its_own_is_registered_and_answers_as_one_here(network: Workspace) -> None:
    told: list[str] = []
    found = launch.in_subprocess(Job("taxi_net", AS_OF, TrainOptions(seed=2)), told.append, limit=LONG)
    assert found["as_of"] == AS_OF
    assert [line["candidate"] for line in found["candidates"]] == ["constant (baseline)", "net", "net+int8"]
    assert [line.split(":")[0] for line in told if "log loss" in line] == ["constant", "net", "net+int8"]
    row = network.db.model("taxi_net", found["version"])
    assert row is not None
    assert row.run_id


def test_under_torchrun_two_processes_make_one_version(network: Workspace) -> None:
    before = len(network.db.models("taxi_net"))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "millrace.cli"]
    train = ["train", "taxi_net", "--as-of", AS_OF.isoformat(), "--device", "cpu", "--json"]
    done = subprocess.run([*run, *train], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [line["candidate"] for line in found["candidates"]] == ["constant (baseline)", "net", "net+int8"]
    assert len(network.db.models("taxi_net")) == before + 1
    assert "2 processes share each batch (ddp)" in devices(network)[0]


def test_a_worker_without_a_server_says_what_to_start(environment: Settings) -> None:
    from pipelines.deployment import on_worker

    with pytest.raises(MillraceError, match=r"No Prefect server is configured.*prefect worker start --pool millrace"):
        on_worker(Job("taxi", AS_OF, TrainOptions()))


def test_a_worker_of_a_server_that_does_not_answer_is_told(environment: Settings) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from pipelines.deployment import on_worker

    gone_server = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with gone_server, pytest.raises(MillraceError, match="Prefect's server does not answer"):
        on_worker(Job("taxi", AS_OF, TrainOptions()))
