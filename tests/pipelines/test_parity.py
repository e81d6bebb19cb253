"""No model serves whose features differ online: the gate of a training, and the command that looks without one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.cli import main
from millrace.settings import Settings
from pipelines import data, models
from pipelines.workspace import Workspace, open_workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
TAXI = Path(__file__).parent / "cases" / "taxi" / "use_case.py"
SAME = "Asked again online, 216 training rows give the same 648 feature values."


@pytest.fixture
def crooked(environment: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """The tiny use case, ingested, with an on-demand function whose answer depends on how many rows it is asked for."""
    text = TAXI.read_text()
    wrong = text.replace('"hour_of_day": rows["hour"]', '"hour_of_day": [len(rows["hour"])] * len(rows["hour"])')
    assert wrong != text
    folder = tmp_path / "cases" / "taxi"
    folder.mkdir(parents=True)
    (folder / "use_case.py").write_text(wrong)
    monkeypatch.setenv("MILLRACE_USE_CASES", str(folder.parent))
    with open_workspace("taxi") as ws:
        data.ingest(ws, as_of=START)
    return environment


def test_a_champions_verdict_says_that_its_features_are_the_same_online(ws: Workspace) -> None:
    champion = ws.db.champion("taxi")
    assert champion is not None
    assert SAME in champion.verdict["reasons"]


def test_a_training_whose_features_differ_online_makes_no_champion(crooked: Settings) -> None:
    with open_workspace("taxi") as ws:
        done = models.train_and_gate(ws, as_of=START)
        assert ws.db.champion("taxi") is None
        decision = ws.db.decisions("taxi")[-1]
    assert not done.outcome.promoted
    assert done.as_dict()["parity"]["mismatches"] == 216
    assert decision.action == "refused"
    assert "216 of the 648 feature values of 216 training rows differ; hour_of_day of trip_facts" in decision.reason


def test_the_command_shows_what_differs_and_exits_with_1(crooked: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["features", "parity", "taxi", "--rows", "40", "--as-of", "2024-01-20", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert end.value.code == 1
    assert (shown["rows"], shown["values"], shown["mismatches"], len(shown["first"])) == (40, 120, 40, 10)
    first = shown["first"][0]
    assert (first["view"], first["feature"], first["offline"], first["online"]) == ("trip_facts", "hour_of_day", 40, 1)


def test_the_command_exits_with_0_when_every_value_is_the_same(
    ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["features", "parity", "taxi", "--rows", "100", "--as-of", "2024-01-20", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert end.value.code in (0, None)
    assert (shown["rows"], shown["mismatches"], shown["first"]) == (100, 0, [])
    assert ws.db.runs("taxi")[0].kind == "parity"


def test_the_command_writes_a_feast_repository(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["features", "repo", "taxi", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (Path(shown["path"]) / "feature_store.yaml").is_file()
    assert shown["try"] == f"feast -c {shown['path']} feature-views list"
