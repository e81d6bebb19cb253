"""`millrace push`: rows from the command line or a file, and what is recorded of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from millrace.cli import main
from millrace.errors import RequestError
from pipelines import data
from pipelines.workspace import Workspace, open_workspace

from .conftest import CASES, START

EVENT = START - timedelta(minutes=30)
ROW = {"zone": "Z1", "event_time": EVENT.isoformat(), "zone_late": 0.5, "zone_trips": 9.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a platform on which the tiny use case is ingested and materialized as of START."""
    home = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        with open_workspace("taxi", home) as ws:
            data.ingest(ws, as_of=START)
            data.materialize(ws, as_of=START)
    return home


@pytest.fixture
def ws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open, and named by the environment."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    with open_workspace("taxi") as workspace:
        yield workspace


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `millrace push taxi recent …` as of START."""
    with pytest.raises(SystemExit) as end:
        main(["push", "taxi", *arguments, "--as-of", START.isoformat()])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def rows(*zones: str) -> list[dict[str, object]]:
    return [ROW | {"zone": zone} for zone in zones]


def test_rows_as_json_are_written_and_the_same_again_repeated(ws: Workspace, capsys: pytest.CaptureFixture[str]):
    outcomes = [json.loads(run(capsys, "recent", json.dumps(rows("A1", "A2")), "--json")[1]) for _ in range(2)]
    done = {"use_case": "taxi", "view": "recent", "rows": 2, "written": 2, "online": 2, "repeated": False}
    assert outcomes == [done, done | {"written": 0, "repeated": True}]


def test_people_are_told_the_same(ws: Workspace, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, "recent", json.dumps(rows("B1")[0]))
    assert code == 0
    assert " ".join(out.split()) == "use case taxi view recent rows 1 written 1 online 1 repeated no"
    assert "push to recent" in err


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_file_of_each_kind_gives_the_same_push(
    ws: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
):
    path = tmp_path / f"rows.{kind}"
    frame = pl.DataFrame(rows("C1", "C2"))
    if kind == "json":
        path.write_text(json.dumps(rows("C1", "C2")))
    elif kind == "csv":
        frame.write_csv(path)
    else:
        frame.with_columns(pl.lit(EVENT).cast(pl.Datetime("us", "UTC")).alias("event_time")).write_parquet(path)
    code, out, _ = run(capsys, "recent", str(path), "--json")
    assert (code, json.loads(out)["rows"]) == (0, 2)
    assert ws.lake.scan("pushed/recent").filter(pl.col("zone").is_in(["C1", "C2"])).collect().height == 2


def test_rows_come_on_standard_input(
    ws: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(rows("D1"))))
    assert json.loads(run(capsys, "recent", "-", "--json")[1])["written"] == 1


@pytest.mark.parametrize(
    ("view", "given", "says"),
    [
        ("late", "[]", "no online feature view"),
        ("recent", "[]", "at least one row"),
        ("recent", "[1]", "JSON object"),
        ("recent", '{"zone": NaN}', "lacks event_time"),
        ("recent", json.dumps(ROW | {"zone_late": "half"}), "zone_late of row 0 must be a number"),
        ("recent", json.dumps(ROW).replace("0.5", "NaN"), "zone_late of row 0 must be a finite number"),
        ("recent", "nothing.csv", "nothing.csv cannot be read"),
        ("recent", "nothing.json", "cannot be read"),
    ],
)
def test_bad_rows_are_one_paragraph_and_nothing_is_written(
    ws: Workspace, capsys: pytest.CaptureFixture[str], view: str, given: str, says: str
):
    version = ws.lake.version("pushed/recent") if ws.lake.exists("pushed/recent") else None
    code, _, err = run(capsys, view, given)
    assert (code, says in " ".join(err.split())) == (1, True), err
    assert "Traceback" not in err
    assert version == (ws.lake.version("pushed/recent") if ws.lake.exists("pushed/recent") else None)


def test_views_that_were_never_applied_say_what_to_type(environment, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, "recent", json.dumps(ROW))
    assert code == 5
    assert "millrace materialize taxi" in " ".join(err.split())


def test_a_push_is_a_run_in_the_platforms_database(ws: Workspace):
    data.push(ws, "recent", rows("E1"), as_of=START)
    with pytest.raises(RequestError):
        data.push(ws, "recent", [], as_of=START)
    failed, done = ws.db.runs("taxi", "push")[:2]
    assert (failed.state, done.state, done.detail["rows"]) == ("failed", "done", 1)
