"""The command line: exit codes, one paragraph of error, JSON for machines, and help that answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from millrace.cli import main
from pipelines.replay import _weeks
from pipelines.workspace import Workspace


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_help_lists_the_commands_and_imports_nothing_heavy():
    heavy = ("polars", "pandas", "sqlalchemy", "pydantic", "prefect", "feast", "mlflow", "torch", "fastapi")
    code = (
        "import sys\n"
        "from millrace.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    commands = "demo replay ingest materialize train promote rollback serve predict score monitor status doctor"
    assert all(command in done.stdout for command in commands.split())
    assert done.stdout.strip().endswith("[]")


def test_status_as_json_names_champion_ingest_and_freshness(ws: Workspace, capsys):
    code, out, _ = run(capsys, "status", "taxi", "--as-of", "2024-01-20", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["champion"].startswith("version 1, logistic")
    assert [view["view"] for view in shown["views"]] == ["recent"]
    assert shown["last_ingest"]["state"] == "done"


def test_status_for_people_says_the_same(ws: Workspace, capsys):
    code, out, _ = run(capsys, "status", "taxi")
    assert code == 0
    assert "Will this trip be late?" in out
    assert "version 1, logistic" in out


def test_predict_takes_rows_as_json(ws: Workspace, capsys):
    row = '{"zone": "Z1", "hour": 5}'
    code, out, _ = run(capsys, "predict", "taxi", row, "--as-of", "2024-01-20T00:00:00Z", "--json")
    assert code == 0
    assert 0 < json.loads(out)["predictions"][0]["score"] < 1


def test_an_unknown_entity_is_flagged_not_an_error(ws: Workspace, capsys):
    code, out, _ = run(capsys, "predict", "taxi", '{"zone": "Z9", "hour": 5}', "--as-of", "2024-01-20", "--json")
    assert code == 0
    assert json.loads(out)["predictions"][0]["flags"] == ["missing:recent"]


def test_a_week_by_hand_ingests_scores_and_is_watched_with_a_report(ws: Workspace, capsys, tmp_path):
    stretch = ("--from", "2024-01-20", "--until", "2024-01-27", "--as-of", "2024-01-27")
    output = tmp_path / "scores.parquet"
    ingested = json.loads(run(capsys, "ingest", "taxi", "--as-of", "2024-01-27", "--json")[1])
    scored = json.loads(run(capsys, "score", "taxi", *stretch, "--output", str(output), "--json")[1])
    seen = json.loads(run(capsys, "monitor", "taxi", "--as-of", "2024-01-27", "--no-act", "--json")[1])
    assert ingested["rows"] > 0
    assert (scored["rows"], scored["logged"], pl.read_parquet(output).height) == (504, 504, 504)
    assert (seen["rows"], seen["labelled"] > 490) == (504, True)
    assert seen["reason"]
    assert "<html" in Path(seen["report"]).read_text()[:2000]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("status", "nowhere"), 2, "There is no use case 'nowhere'"),
        (("train", "taxi", "--as-of", "2000-01-01"), 4, "millrace ingest"),
        (("ingest", "taxi", "--as-of", "2000-01-01"), 4, "Choose a later --as-of"),
        (("monitor", "taxi"), 7, "millrace train taxi"),
        (("rollback", "taxi"), 7, "millrace train taxi"),
        (("promote", "taxi", "7"), 7, "no version 7"),
        (("predict", "taxi", "no.json"), 1, "cannot be read"),
        (("predict", "taxi", "[1]"), 1, "JSON object"),
        (("ingest", "taxi", "--as-of", "someday"), 2, "not a date or time"),
        (("replay", "taxi", "--from", "2024-02-01", "--until", "2024-01-01"), 1, "no week"),
    ],
)
def test_bad_input_is_one_paragraph_and_an_exit_code(environment, capsys, arguments, code, says):
    found, _, err = run(capsys, *arguments)
    assert (found, says in err) == (code, True), err
    assert "Traceback" not in err


def test_an_error_as_json_keeps_its_parts(environment, capsys):
    _, _, err = run(capsys, "status", "nowhere", "--json")
    assert json.loads(err)["error"] == "UseCaseError"


def test_doctor_names_what_is_missing_and_what_to_type(environment, monkeypatch, capsys):
    assert run(capsys, "doctor")[0] == 0
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "MILLRACE_DATABASE_URL" in out


def test_a_second_replay_beside_the_first_is_refused(environment, capsys):
    from millrace.db import Database

    home = environment.home.absolute() / "replay" / "taxi"
    with Database.open(environment).lease(f"replay {home}"):
        code, _, err = run(capsys, "replay", "taxi", "--from", "2024-01-20", "--until", "2024-02-03")
    assert code == 9
    assert "Another process is already doing this" in err
    assert not home.exists()


def test_a_stretch_is_cut_into_weeks_with_a_shorter_rest():
    from datetime import UTC, datetime, timedelta

    start = datetime(2024, 1, 1, tzinfo=UTC)
    weeks = _weeks(start, start + timedelta(days=17))
    assert [(last - first).days for first, last in weeks] == [7, 7, 3]
    assert weeks[0][0] == start
