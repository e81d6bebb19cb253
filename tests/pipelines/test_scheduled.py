"""Scheduled work in this process: everything that is due, once, in its order, and what fails on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace.cli import main
from millrace.errors import SourceError
from millrace.prediction_log import TABLE
from pipelines.scheduled import run_due, scheduled_flow
from pipelines.workspace import Workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
MORNING = datetime(2024, 1, 22, 6, 10, tzinfo=UTC)
LATER = MORNING + timedelta(days=3)


def did(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["work"]: line["did"] for line in lines}


def windows(ws: Workspace) -> list[datetime]:
    return [row.end for row in ws.db.windows("taxi")]


def test_what_is_due_is_done_as_of_its_time(ws: Workspace) -> None:
    lines = run_due("taxi", MORNING)
    assert did(lines) == {"ingest": "done", "score": "done", "monitor": "done"}, lines
    assert [f"{line['as_of']:%d %H:%M}" for line in lines] == ["22 06:00", "22 00:30", "22 06:00"]
    assert windows(ws) == [datetime(2024, 1, 22, 6, tzinfo=UTC)]


def test_again_there_is_nothing_to_do(ws: Workspace) -> None:
    lines = run_due("taxi", MORNING)
    assert did(lines) == dict.fromkeys(("ingest", "score", "monitor"), "nothing")
    assert lines[0]["why"] == "It was done for 2024-01-22 06:00 UTC."


def test_after_three_days_of_sleep_each_work_is_done_once_for_all_of_them(ws: Workspace) -> None:
    assert set(did(run_due("taxi", LATER)).values()) == {"done"}
    assert windows(ws)[1:] == [datetime(2024, 1, 25, 6, tzinfo=UTC)]
    logged = ws.lake.scan(TABLE).select("event_time").collect()["event_time"]
    assert (logged.min(), logged.max()) == (START, datetime(2024, 1, 25, 0, 20, tzinfo=UTC))
    assert logged.n_unique() == len(logged) == 362  # a trip every 20 minutes of five days and a half hour, each once


def test_what_a_work_needs_is_done_before_it(ws: Workspace) -> None:
    at = LATER + timedelta(days=1)
    assert scheduled_flow.fn("taxi", "monitor", at=at)["outcome"]["to"] == datetime(2024, 1, 26, 6, tzinfo=UTC)
    assert ws.db.runs("taxi", "scheduled ingest")[0].as_of == datetime(2024, 1, 26, 6, tzinfo=UTC)
    assert not scheduled_flow.fn("taxi", "score", at=at)["due"]


def test_a_source_that_is_away_is_told_and_the_window_watched_all_the_same(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise SourceError("The file is not there.")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.flows.ingest", fails)
        lines = run_due("taxi", datetime(2024, 1, 27, 6, 5, tzinfo=UTC))
    found = did(lines)
    assert (found["ingest"], found["monitor"]) == ("failed", "done")
    assert lines[0]["why"] == "The file is not there."
    assert [row.title for row in ws.db.alerts.newest() if row.resolved_at is None][:1] == ["The ingest failed"]


def test_work_that_another_process_does_is_left_to_it(ws: Workspace) -> None:
    with ws.db.lease("scheduled ingest taxi"):
        found = scheduled_flow.fn("taxi", "ingest", at=datetime(2024, 1, 28, tzinfo=UTC))
    assert found["why_not"].startswith("Another process is at it.")


def test_the_command_exits_with_1_when_something_fails(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("pipelines.flows.ingest", fails)
    with pytest.raises(SystemExit) as ended:
        main(["schedule", "taxi", "--once", "--as-of", "2024-01-28T07:30", "--impatient", "--json"])
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["work"][0]["why"] == "RuntimeError: out of luck"
