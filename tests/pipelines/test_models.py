"""A training that comes to nothing leaves the champion as it was and nothing behind, however it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace import Candidate
from millrace.errors import BundleError, TrainingError
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import child_environment
from pipelines.models import train_and_gate
from pipelines.workspace import Workspace

START = datetime(2024, 1, 20, tzinfo=UTC)


def standing(ws: Workspace) -> tuple[Any, ...]:
    """Who serves: by the database, by MLflow's alias, and with which files."""
    row = ws.db.champion("taxi")
    assert row is not None
    alias = mlflow_client(ws.settings).get_model_version_by_alias("taxi", "champion")
    files = {file.name: file.read_bytes() for file in Path(row.bundle).iterdir()}
    return row, alias.version, alias.run_id, files, len(ws.db.models("taxi"))


def staged(ws: Workspace) -> list[Path]:
    return list((ws.settings.folder("staging") / "taxi").iterdir())


def status_of_runs(ws: Workspace, name: str) -> list[str]:
    """How the runs of a model ended, the newest first."""
    client = mlflow_client(ws.settings)
    where = [experiment_id(client, ws.settings, "taxi")]
    return [run.info.status for run in client.search_runs(where, f"attributes.run_name = '{name}'")]


@pytest.fixture
def untouched(ws: Workspace) -> Iterator[Workspace]:
    """The platform, whose champion must be the same afterwards."""
    before = standing(ws)
    yield ws
    assert standing(ws) == before
    assert staged(ws) == []


def with_candidate(ws: Workspace, build: Any, **given: Any) -> Workspace:
    """The platform of the same use case with another candidate."""
    return replace(ws, use_case=replace(ws.use_case, candidates=(Candidate("other", build, **given),)))


def test_a_candidate_that_raises(untouched: Workspace) -> None:
    def raises(inputs: Sequence[Any]) -> Any:
        raise RuntimeError("no luck")

    with pytest.raises(TrainingError, match=r"'other' cannot be fitted: RuntimeError: no luck"):
        train_and_gate(with_candidate(untouched, raises), as_of=START)
    assert status_of_runs(untouched, "other")[0] == "FAILED"


def test_a_candidate_that_hangs(untouched: Workspace) -> None:
    def hangs(inputs: Sequence[Any]) -> Any:
        while True:
            time.sleep(0.01)

    with pytest.raises(TrainingError, match=r"'other' was not fitted within 0\.3 s"):
        train_and_gate(with_candidate(untouched, hangs, timeout=timedelta(seconds=0.3)), as_of=START)


def test_a_disk_that_is_full_as_the_second_bundle_is_written(
    untouched: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from millrace import bundle_files

    write, written = bundle_files.write_through, 0

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written > 7:  # five files of the first one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(bundle_files, "write_through", full)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        train_and_gate(untouched, as_of=START)


KILLED = """
import os, signal
from dataclasses import replace
from datetime import UTC, datetime
from millrace import Candidate
from millrace.settings import quiet_vendors
from pipelines.models import train_and_gate
from pipelines.workspace import open_workspace

quiet_vendors()
dies = Candidate("other", lambda inputs: os.kill(os.getpid(), signal.SIGKILL))
with open_workspace("taxi") as ws:
    ws = replace(ws, use_case=replace(ws.use_case, candidates=(dies,)))
    train_and_gate(ws, as_of=datetime(2024, 1, 20, tzinfo=UTC))
"""


def test_what_a_killed_training_left_is_cleared_by_the_next(ws: Workspace) -> None:
    environment = os.environ | child_environment(ws.settings)
    died = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert len(staged(ws)) == 1  # the baseline's bundle
    assert status_of_runs(ws, "other")[0] == "RUNNING"
    before = standing(ws)
    train_and_gate(ws, as_of=START)
    assert staged(ws) == []
    assert status_of_runs(ws, "other")[0] == "KILLED"
    assert "RUNNING" not in status_of_runs(ws, "logistic")
    assert standing(ws)[:4] == before[:4]
