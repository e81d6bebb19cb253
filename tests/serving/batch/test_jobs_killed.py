"""Jobs whose process is killed, at each point between a chunk's rows and the ledger, end as an undisturbed one does."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.lake import Lake
from pipelines.workspace import Workspace

from .conftest import AT, CASE, ROWS, asked

ROOT = Path(__file__).parents[3]
CHUNKS = 5

HOST = """
import json, os, signal, sys
from datetime import datetime
from pathlib import Path
from millrace.db import Database, ScoreJobs
from millrace.lake import open_lake
from millrace.loader import load_use_case
from millrace.settings import read_settings
from pipelines.score_jobs import score_job
from pipelines.workspace import Workspace
from serving.batch import calibration, local, planning, sinks, sql, worker
from serving.batch.spec import JobSpec

calibration.BUDGET_SECONDS = 0.02

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def lethal(order):
    for kind in (sinks.FolderSink, sinks.LakeSink, sql.SqlSink):
        def write(self, chunk, frame, whole=kind.write):
            if order["point"] == "before" and len(written) == order["chunk"]:
                kill()
            whole(self, chunk, frame)
            written.append(chunk)
            if order["point"] == "between" and len(written) > order["chunk"]:
                kill()
        kind.write = write
    commit = ScoreJobs.commit
    def commit_and_die(self, chunk):
        state = commit(self, chunk)
        if order["point"] == "after" and len(written) > order["chunk"]:
            kill()
        return state
    ScoreJobs.commit = commit_and_die

for line in sys.stdin:
    order, written = json.loads(line), []
    child = os.fork()
    if child == 0:
        try:
            lethal(order)
            settings = read_settings(home=Path(order["home"]), places=order["places"])
            use_case = load_use_case(order["use_case"], settings)
            ws = Workspace(use_case, settings, open_lake(settings, use_case.name), Database.open(settings))
            done = score_job(ws, JobSpec.from_dict(order["spec"]), at=datetime.fromisoformat(order["at"]))
            told = {"state": done.state, "digest": done.digest, "rows": done.rows, "written": len(written)}
            Path(order["answer"]).write_text(json.dumps(told))
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Host:
    """A process that forks one for each job that it is told, which may kill itself at a point of the job."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", HOST], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def run(self, ws: Workspace, output: str, answer: Path, *, point: str = "", chunk: int = 0) -> int:
        spec = asked(ws.settings.home.parent / "in" / "rows.parquet", output, log=True).to_dict()
        order = {"home": str(ws.settings.home), "places": ws.settings.places, "use_case": str(CASE), "spec": spec}
        order |= {"at": AT.isoformat(), "answer": str(answer), "point": point, "chunk": chunk}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.stop()


def rows_in(lake: Lake, output: str, database: Path) -> pl.DataFrame:
    """What the output holds of a job, but for the time and the run."""
    if output.startswith("sql:"):
        with sqlite3.connect(database) as connection:
            found = pl.DataFrame(connection.execute("SELECT trip, score FROM scores").fetchall(), orient="row")
        return found.sort(found.columns[0])
    frame = lake.scan("scores").collect() if output.startswith("lake:") else pl.read_parquet(output)
    return frame.select("trip", "score").sort("trip")


@pytest.mark.parametrize("point", ["before", "between", "after"])
@pytest.mark.parametrize("output", ["folder", "lake:scores", "sql:db:scores"])
def test_a_killed_job_goes_on_and_ends_as_an_undisturbed_one(
    ws: Workspace, given: Path, tmp_path: Path, host: Host, output: str, point: str
) -> None:
    database = tmp_path / "scores.db"
    settings = ws.settings.model_copy(update={"places": {"db": f"sqlite:///{database}"}})
    ws = Workspace(ws.use_case, settings, ws.lake, ws.db)
    output = str(tmp_path / "out") if output == "folder" else output
    answer = tmp_path / "answer.json"
    assert host.run(ws, output, answer, point=point, chunk=2) == -9
    assert host.run(ws, output, answer) == 0
    told: dict[str, Any] = json.loads(answer.read_text())
    assert (told["state"], told["rows"]) == ("done", ROWS)
    assert told["written"] == CHUNKS - (3 if point == "after" else 2)  # two or three were committed before
    found = rows_in(ws.lake, output, database)
    assert found.height == ROWS
    whole = tmp_path / "whole"
    assert host.run(ws, str(whole), answer) == 0
    assert json.loads(answer.read_text())["digest"] == told["digest"]
    assert found.rows() == pl.read_parquet(whole).select("trip", "score").sort("trip").rows()
    assert ws.lake.scan("predictions").collect().height == 2 * ROWS  # of either job each row once
