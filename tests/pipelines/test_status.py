"""What runs now and what was lost with its process, as `millrace status` and `millrace doctor` tell it."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

from sqlalchemy import update

from millrace.db import Database, RunRow
from millrace.db.runs import SILENCE
from millrace.db.session import writing
from millrace.settings import Settings
from pipelines.doctor import Finding, examine
from pipelines.status import status
from pipelines.workspace import open_workspace

NOW = datetime(2024, 1, 20, tzinfo=UTC)


def silence(db: Database, run: int) -> None:
    """As if the run's process had died."""
    with writing(db._engine) as session:
        session.execute(update(RunRow).where(RunRow.id == run).values(heard_at=datetime.now(UTC) - SILENCE))


def runs_finding() -> Finding:
    return next(finding for finding in examine() if finding.what == "runs")


def test_status_names_what_runs_and_in_which_process(environment: Settings) -> None:
    with open_workspace("taxi") as ws:
        assert "running" not in status(ws, as_of=NOW)
        run = ws.db.start_run("taxi", "train", NOW)
        (told,) = status(ws, as_of=NOW)["running"]
        assert (told["run"], told["kind"]) == (run, "train")
        assert told["process"] == f"{os.getpid()} on {socket.gethostname()}"
        silence(ws.db, run)
        assert "running" not in status(ws, as_of=NOW)


def test_doctor_names_a_lost_run_until_it_is_done_again(environment: Settings) -> None:
    assert runs_finding().ok
    with open_workspace("taxi") as ws:
        run = ws.db.start_run("taxi", "train", NOW)
        assert "train of taxi (run 1)" in runs_finding().found
        silence(ws.db, run)
        found = runs_finding()
        assert (found.ok, "train of taxi (run 1, as of 2024-01-20 00:00)" in found.found) == (False, True)
        with ws.run("train", NOW):
            pass
        assert runs_finding().ok


def test_a_run_that_starts_marks_those_whose_process_died(environment: Settings) -> None:
    with open_workspace("taxi") as ws:
        silence(ws.db, ws.db.start_run("taxi", "ingest", NOW))
        with ws.run("score", NOW):
            assert [run.kind for run in ws.db.running()] == ["score"]
        assert [run.state for run in ws.db.runs("taxi")] == ["done", "lost"]
