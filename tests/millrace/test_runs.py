"""Runs whose process died: found, marked, and told apart from those that work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from sqlalchemy import update

from millrace.db import Database, RunRow
from millrace.db.runs import SILENCE
from millrace.db.session import writing
from millrace.settings import Settings

T0 = datetime(2013, 4, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = "" if request.param == "sqlite" else request.getfixturevalue("needs_postgres")
    return Settings(home=tmp_path, database_url=url)


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    database = Database.open(settings)
    yield database
    database.close()


def change(db: Database, run: int, **values: object) -> None:
    with writing(db._engine) as session:
        session.execute(update(RunRow).where(RunRow.id == run).values(**values))


def _die_working(settings: Settings) -> None:
    Database.open(settings).start_run("flights", "train", T0)
    os._exit(1)


def test_a_run_whose_process_died_is_lost(db: Database, settings: Settings) -> None:
    process = get_context("spawn").Process(target=_die_working, args=(settings,))
    process.start()
    process.join(60)
    assert [run.kind for run in db.running()] == ["train"]
    assert [run.kind for run in db.lose_dead_runs()] == ["train"]
    (run,) = db.runs("flights")
    assert (run.state, run.ended_at) == ("lost", run.heard_at)
    assert f"process {process.pid} on" in run.detail["error"]
    assert db.running() == []


def test_a_run_of_a_living_process_is_left_alone(db: Database) -> None:
    run = db.start_run("flights", "train", T0)
    assert db.lose_dead_runs() == []
    assert [one.id for one in db.running()] == [run]


def test_a_run_on_another_host_is_believed_until_its_silence_is_too_long(db: Database) -> None:
    run = db.start_run("flights", "train", T0)
    change(db, run, host="elsewhere", pid=1)
    assert db.lose_dead_runs() == []
    change(db, run, heard_at=datetime.now(UTC) - SILENCE)
    assert [one.id for one in db.lose_dead_runs()] == [run]


def test_a_silent_run_is_lost_though_another_process_has_its_number_now(db: Database) -> None:
    run = db.start_run("flights", "train", T0)
    change(db, run, heard_at=datetime.now(UTC) - SILENCE)
    assert [one.id for one in db.lose_dead_runs()] == [run]


def test_a_run_of_before_runs_were_heard_of_is_lost(db: Database) -> None:
    run = db.start_run("flights", "train", T0)
    change(db, run, host="", pid=None, heard_at=None, started_at=datetime.now(UTC) - timedelta(days=2))
    assert [one.id for one in db.lose_dead_runs()] == [run]


def test_a_run_that_was_taken_for_dead_and_ends_all_the_same_says_so(db: Database) -> None:
    run = db.start_run("flights", "train", T0)
    change(db, run, heard_at=datetime.now(UTC) - SILENCE)
    db.lose_dead_runs()
    db.end_run(run, "done", {"rows": 3})
    assert (db.runs("flights")[0].state, db.runs("flights")[0].detail) == ("done", {"rows": 3})


def test_a_run_is_heard_of_while_it_works(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.db.runs.SILENCE", timedelta(seconds=0.08))
    run = db.start_run("flights", "train", T0)
    began = db.running()[0].heard_at
    assert began is not None
    with db.heard_of(run):
        for _ in range(1_000):
            heard = db.running()[0].heard_at
            if heard is not None and heard > began:
                break
    assert heard is not None
    assert heard > began


def test_a_decision_is_found_by_its_id_and_keeps_what_came_of_it(db: Database) -> None:
    window = (T0 - timedelta(days=7), T0)
    number = db.add_decision("flights", as_of=T0, action="retrain", reason="r", severity="info", window=window)
    db.settle_decision(number, {"result": "refused"})
    row = db.decision(number)
    assert row is not None
    assert (row.window_start, row.window_end, row.severity) == (*window, "info")
    assert row.outcome == {"result": "refused"}
    assert db.decision(number + 1) is None
