"""On a Ray cluster of two nodes: batch jobs, the point-in-time join and trainings do what they do on one machine.

One file for three rooms, since they share the cluster, which takes longer to start than the tests take; what is done
there stands in `cluster_session.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from millrace.cli import main
from millrace.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]  # on a busy machine a cluster alone takes a minute

SESSION = Path(__file__).parent / "cluster_session.py"


@pytest.fixture(scope="module")
def session(network_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was done on the cluster, and which of its processes are left."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'millrace[ray]'")
    folder = tmp_path_factory.mktemp("cluster")
    paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SESSION), str(folder), str(network_cases)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=560, check=False
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found | {"left": [one.info["pid"] for one in psutil.process_iter(["pid", "environ"]) if _of(folder, one)]}


def _of(folder: Path, process: psutil.Process) -> bool:
    """Whether a process is one of the cluster's."""
    return (process.info["environ"] or {}).get("HOME") == str(folder)


def test_the_partitioned_join_equals_the_join_of_one_machine(session: dict[str, Any]) -> None:
    assert session["join"]["equal"]


def test_the_join_had_values_and_nulls_of_every_view(session: dict[str, Any]) -> None:
    answered, rows = session["join"]["answered"], session["join"]["rows"]
    assert all(100 < count < rows - 100 for count in answered.values()), answered


def test_a_job_has_the_digest_and_scores_of_one_machine(session: dict[str, Any]) -> None:
    local, ray = session["job"]["local"], session["job"]["ray"]
    assert (ray["state"], ray["join"], ray["digest"]) == ("done", "point-in-time", local["digest"])
    assert ray["scores"] == local["scores"]


def test_a_killed_process_costs_the_job_nothing_but_a_retry(session: dict[str, Any]) -> None:
    job = session["job"]["ray"]
    assert job["killed"] >= 1
    assert job["rows"] == job["scored"] + job["rejected"] == session["job"]["rows"]


def test_a_job_rejects_and_logs_each_row_once(session: dict[str, Any]) -> None:
    local, ray = session["job"]["local"], session["job"]["ray"]
    assert ray["rejected"] == local["rejected"]
    assert ray["logged"] - local["logged"] == local["logged"] == ray["scored"]


def test_two_processes_of_the_cluster_fit_a_network_together(session: dict[str, Any]) -> None:
    assert session["training"]["candidates"] == ["constant (baseline)", "net", "net+int8"]
    assert any("2 processes share each batch (ddp)" in reason for reason in session["training"]["devices"])


def test_a_training_on_the_cluster_makes_one_version(session: dict[str, Any]) -> None:
    assert session["training"]["versions"] == 1


def test_what_the_first_process_says_is_heard(session: dict[str, Any]) -> None:
    assert [line.split(":")[0] for line in session["training"]["told"] if "log loss" in line] == [
        "constant",
        "net",
        "net+int8",
    ]


def test_nothing_of_the_cluster_is_left(session: dict[str, Any]) -> None:
    assert session["left"] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "No Ray cluster is named"),
        (["--device", "cuda"], "fitted on CPUs"),
        (["--processes", "2", "--trials", "3"], "search first"),
    ],
)
def test_a_training_that_cannot_be_sent_there_is_refused(
    options: list[str],
    says: str,
    environment: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'millrace[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["train", "taxi", "--as-of", "2024-01-20", "--launch", "ray", *options])
    assert end.value.code
    assert says in " ".join(capsys.readouterr().err.split())
