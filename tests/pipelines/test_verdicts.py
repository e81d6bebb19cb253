"""What a gate found is shown as it was stored, for the champion or any version."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from millrace.db import ModelRow
from millrace.errors import NoChampionError
from pipelines.verdicts import verdict
from pipelines.workspace import Workspace, open_workspace

AS_OF = datetime(2024, 1, 20, tzinfo=UTC)
STORED = {
    "passed": False,
    "reasons": ["p99 latency of one row is 7 ms and must be at most 5 ms."],
    "against": ["p99 latency of one row is 7 ms and must be at most 5 ms."],
    "limits": [
        {
            "metric": "p99_ms",
            "sense": "<=",
            "bound": 5.0,
            "measured": 7.0,
            "margin": -2.0,
            "passed": False,
            "note": "of 6,000 calls",
        },
        {"metric": "roc_auc", "sense": ">=", "bound": 0.5, "measured": 0.75, "passed": True},
        {"metric": "joules_per_1000", "sense": "<=", "bound": 1.0, "measured": None, "margin": None, "passed": False},
    ],
}


def row(version: int, status: str, stored: dict[str, Any]) -> ModelRow:
    return ModelRow("taxi", version, "logistic", "r", "b", "d", AS_OF, AS_OF, status, verdict=stored)


@pytest.fixture
def judged(environment: Any) -> Any:
    """A platform with a champion and a version that was refused."""
    with open_workspace("taxi") as ws:
        ws.db.add_model(row(1, "champion", STORED | {"passed": True, "limits": []}))
        ws.db.add_model(row(2, "refused", STORED))
        yield ws


def test_the_champions_verdict_is_shown_by_default(judged: Workspace) -> None:
    found = verdict(judged)
    assert (found["version"], found["status"], found["passed"]) == (1, "champion", True)


def test_every_limit_has_what_was_measured_and_its_margin(judged: Workspace) -> None:
    limits = verdict(judged, 2)["limits"]
    assert [(one["metric"], one["measured"], one["margin"]) for one in limits] == [
        ("p99_ms", 7.0, -2.0),
        ("roc_auc", 0.75, 0.25),
        ("joules_per_1000", None, None),
    ]


def test_a_version_that_does_not_exist_is_told_with_those_that_do(judged: Workspace) -> None:
    with pytest.raises(NoChampionError, match=r"no version 9.*It has 2, 1"):
        verdict(judged, 9)


def test_without_a_champion_there_is_no_verdict(environment: Any) -> None:
    with open_workspace("taxi") as ws, pytest.raises(NoChampionError, match="millrace train taxi"):
        verdict(ws)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    from millrace.cli import main

    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0), capsys.readouterr().out


def test_machines_get_passed_reasons_and_limits(judged: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "verdict", "taxi", "--version", "2", "--json")
    shown = json.loads(out)
    assert (code, shown["passed"], shown["reasons"]) == (0, False, STORED["reasons"])
    assert {"metric", "measured", "bound", "margin"} <= set(shown["limits"][0])


def test_people_get_the_same(judged: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "verdict", "taxi", "--version", "2")
    assert code == 0
    assert "must be at most 5 ms" in out
    assert "of 6,000 calls" in out
    assert "p99_ms" in out
    assert "-2" in out
