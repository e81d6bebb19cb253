"""Alerts: what is told once, told again and told to be over; to whom, and when not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from millrace.db import Database
from millrace.settings import Settings, Severity
from monitoring.alerts import Destination, Notice, Policy, destinations, raise_alert, resolve_alert

NOW = datetime(2024, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
URLS: dict[Severity, list[str]] = {"info": ["json://log"], "warning": ["json://team"], "critical": ["json://pager"]}
NOTICE = Notice("taxi", "ingest failed", "warning", "The ingest failed", "SourceError: no file.")


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    opened = Database.open(settings)
    yield opened
    opened.close()


def policy(quiet: str = "") -> Policy:
    return Policy.of(Settings(alerts=URLS, alert_quiet=quiet))


def see(db: Database, notice: Notice = NOTICE, after: timedelta = timedelta(0), quiet: str = "") -> int:
    """How many messages were waiting before and are now: what raising it added."""
    before = len(db.alerts.waiting())
    raise_alert(db.alerts, policy(quiet), notice, now=NOW + after)
    return len(db.alerts.waiting()) - before


def over(db: Database, after: timedelta) -> int:
    before = len(db.alerts.waiting())
    resolve_alert(db.alerts, policy(), "taxi", NOTICE.cause, now=NOW + after)
    return len(db.alerts.waiting()) - before


@pytest.mark.parametrize(("severity", "told"), [("info", 1), ("warning", 2), ("critical", 3)])
def test_who_is_told_of_a_severity_is_told_of_all_above_it(db: Database, severity: Severity, told: int) -> None:
    assert see(db, replace(NOTICE, severity=severity)) == told


def test_the_same_cause_is_told_once_in_a_period_and_counted(db: Database) -> None:
    assert [see(db, after=hours * HOUR) for hours in range(24)] == [2, *[0] * 23]
    assert db.alerts.newest()[0].count == 24


def test_what_is_still_so_after_a_period_is_told_again(db: Database) -> None:
    see(db)
    assert see(db, after=24 * HOUR) == 2
    assert len(db.alerts.newest()) == 1


def test_another_cause_and_another_use_case_are_told(db: Database) -> None:
    assert [see(db), see(db, replace(NOTICE, cause="x")), see(db, replace(NOTICE, use_case="bus"))] == [2, 2, 2]


def test_what_gets_worse_is_told_at_once(db: Database) -> None:
    see(db)
    assert see(db, replace(NOTICE, severity="critical"), HOUR) == 3


def test_what_is_over_is_told_to_those_who_heard_of_it(db: Database) -> None:
    see(db)
    assert over(db, HOUR) == 2
    assert db.alerts.waiting()[-1].title == "[taxi] resolved: The ingest failed"
    assert db.alerts.waiting()[-1].body == "It is over after 60 min; it was seen 1 time."
    assert db.alerts.newest()[0].resolved_at == NOW + HOUR


def test_what_never_was_or_is_over_already_is_not_told_to_be_over(db: Database) -> None:
    assert over(db, HOUR) == 0
    see(db)
    over(db, HOUR)
    assert over(db, 2 * HOUR) == 0


def test_what_comes_and_goes_is_told_three_times_a_period_and_last_that_it_is_there(db: Database) -> None:
    told = []
    for minutes in range(0, 600, 20):
        told += [see(db, after=timedelta(minutes=minutes)), over(db, timedelta(minutes=minutes + 10))]
    assert told == [2, 2, 2, *[0] * 57]
    assert db.alerts.waiting()[-1].title == "[taxi] warning: The ingest failed"


def test_what_comes_back_after_a_quiet_period_is_another_alert(db: Database) -> None:
    see(db)
    over(db, HOUR)
    see(db, after=30 * HOUR)
    assert [row.count for row in db.alerts.newest()] == [1, 1]


def test_what_does_not_last_is_never_open(db: Database) -> None:
    see(db, replace(NOTICE, lasts=False))
    assert db.alerts.newest()[0].resolved_at == NOW
    assert over(db, HOUR) == 0


@pytest.mark.parametrize(("severity", "due"), [("warning", NOW + 2 * HOUR), ("critical", NOW)])
def test_in_quiet_hours_only_the_critical_is_due(db: Database, severity: Severity, due: datetime) -> None:
    see(db, replace(NOTICE, severity=severity), quiet="13:00-15:00 Europe/Berlin")
    assert {post.next_at for post in db.alerts.waiting()} == {due}


def test_a_url_under_two_severities_is_told_once(db: Database) -> None:
    both = Policy.of(Settings(alerts={"info": ["json://a"], "critical": ["json://a"]}))
    raise_alert(db.alerts, both, replace(NOTICE, severity="critical"), now=NOW)
    assert len(db.alerts.waiting()) == 1


def test_without_destinations_it_is_noted_all_the_same(db: Database) -> None:
    raise_alert(db.alerts, Policy.of(Settings()), NOTICE, now=NOW)
    assert (len(db.alerts.newest()), db.alerts.waiting()) == (1, [])


def test_a_destination_shows_its_place_and_kind_and_nothing_of_its_url() -> None:
    (to,) = destinations({"warning": ["slack://T0KEN/secret"]})
    assert to.name == "warning 1 (slack)"
    assert "T0KEN" not in repr(to) + to.id
    assert to.id == Destination("critical", 7, to.url).id
