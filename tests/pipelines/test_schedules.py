"""What is due: by the schedule, by what the database says was done, and once for all that was missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from millrace.db import ModelRow
from millrace.errors import BusyError
from millrace.settings import Settings
from millrace.usecase import Schedule
from pipelines import schedules
from pipelines.schedules import PAUSE, next_turn, stretch, taking_turn
from pipelines.workspace import Workspace, open_workspace

NOW = datetime(2024, 1, 20, 12, 34, tzinfo=UTC)
NOON = datetime(2024, 1, 20, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def empty(environment: Settings) -> Iterator[Workspace]:
    with open_workspace("taxi") as ws:
        yield ws


@pytest.fixture
def serving(empty: Workspace) -> Workspace:
    """With a champion that serves since two days."""
    since = NOON - 2 * DAY
    empty.db.add_model(ModelRow("taxi", 1, "c", "r", "b", "d", since, since, "challenger"))
    empty.db.set_champion("taxi", 1, as_of=since, reason="The first.")
    return empty


def take(ws: Workspace, work: schedules.Work, now: datetime = NOW) -> bool:
    with taking_turn(ws, work, now) as turn:
        return turn.due


def test_work_is_due_as_of_the_time_at_which_its_line_last_fired(empty: Workspace) -> None:
    turn = next_turn(empty, "ingest", NOW)
    assert (turn.due, turn.as_of, turn.since) == (True, NOON, None)


def test_what_was_done_is_not_due_until_its_next_time(empty: Workspace) -> None:
    assert [take(empty, "ingest"), take(empty, "ingest"), take(empty, "ingest", NOW + HOUR)] == [True, False, True]


def test_three_days_of_missed_times_are_one(empty: Workspace) -> None:
    take(empty, "ingest")
    assert [take(empty, "ingest", NOW + 3 * DAY) for _ in range(72)] == [True, *[False] * 71]
    assert [run.as_of for run in empty.db.runs("taxi", "scheduled ingest")] == [NOON + 3 * DAY, NOON]


def test_what_failed_is_due_again_after_a_pause(empty: Workspace) -> None:
    yearly = replace(empty, use_case=replace(empty.use_case, schedule=Schedule(ingest="0 0 1 1 *")))
    with pytest.raises(RuntimeError), taking_turn(yearly, "ingest", datetime.now(UTC)):
        raise RuntimeError
    ended = yearly.db.runs("taxi", "scheduled ingest")[0].ended_at
    assert ended is not None
    assert "is tried again 10 minutes later" in next_turn(yearly, "ingest", ended).why_not
    assert next_turn(yearly, "ingest", ended, patient=False).due
    assert next_turn(yearly, "ingest", ended + PAUSE).due


def test_work_without_a_line_is_never_due(empty: Workspace) -> None:
    never = replace(empty, use_case=replace(empty.use_case, schedule=Schedule(ingest="")))
    assert next_turn(never, "ingest", NOW).why_not == "It is not scheduled."


@pytest.mark.parametrize("work", ["score", "monitor"])
def test_before_the_first_champion_only_the_ingest_is_due(empty: Workspace, work: schedules.Work) -> None:
    assert next_turn(empty, work, NOW).why_not == "No model serves yet."


def test_another_process_that_is_at_it_is_told(empty: Workspace) -> None:
    with (
        taking_turn(empty, "ingest", NOW),
        pytest.raises(BusyError, match="scheduled ingest taxi"),
        taking_turn(empty, "ingest", NOW),
    ):
        pass


def test_scoring_begins_where_the_last_one_ended(serving: Workspace) -> None:
    with taking_turn(serving, "score", NOW - DAY):
        pass
    midnight = datetime(2024, 1, 20, 0, 30, tzinfo=UTC)
    assert stretch(serving, next_turn(serving, "score", NOW)) == (midnight - DAY, midnight)


def test_the_first_scoring_begins_with_the_first_champion(serving: Workspace) -> None:
    found = stretch(serving, next_turn(serving, "score", NOW))
    assert found == (NOON - 2 * DAY, datetime(2024, 1, 20, 0, 30, tzinfo=UTC))


def test_before_the_champion_has_served_there_is_nothing_to_score(serving: Workspace) -> None:
    assert stretch(serving, next_turn(serving, "score", NOON - 2 * DAY)) is None
