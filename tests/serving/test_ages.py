"""The ages of the online views, as Prometheus sees them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from features.catalog import ViewEntry
from features.online_store import micros
from features.store import open_rows, repo_folder
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.online.ages import Ages

from .conftest import NAME, NOW

HOURLY = ViewEntry(
    name="hourly",
    table="features/hourly",
    path="",
    layout="hourly.0",
    join_keys=("carrier",),
    key_types=("String",),
    features=(("delay", "Float64"),),
    ttl=3600.0,
    stale="flag",
    event="event_time",
    created="known_at",
)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def ages(settings: Settings, use_case: UseCase, metrics: Metrics, clock: Clock) -> Ages:
    return Ages([use_case], settings, metrics=metrics, clock=clock)


@pytest.fixture
def applied(settings: Settings, use_case: UseCase) -> None:
    """The catalog has one view, whose newest event was half an hour ago."""
    import msgspec

    (repo_folder(use_case, settings) / "catalog.json").write_bytes(msgspec.json.encode([HOURLY]))
    rows = open_rows(use_case, settings)
    rows.note_newest(HOURLY.layout, micros(NOW - timedelta(minutes=30)))
    rows.close()


def age(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("millrace_feature_age_seconds", {"use_case": NAME, "view": "hourly"})


@pytest.mark.usefixtures("applied")
def test_the_age_of_the_newest_event_and_the_ttl_are_told(ages: Ages, metrics: Metrics) -> None:
    ages.refresh()
    assert age(metrics) == 1800
    ttl = metrics.registry.get_sample_value("millrace_feature_ttl_seconds", {"use_case": NAME, "view": "hourly"})
    assert ttl == 3600


@pytest.mark.usefixtures("applied")
def test_an_age_grows_while_the_store_does_not_answer(
    ages: Ages, metrics: Metrics, clock: Clock, settings: Settings, use_case: UseCase
) -> None:
    ages.refresh()
    (repo_folder(use_case, settings) / "online.db").write_bytes(b"no store" * 100)
    clock.now = NOW + timedelta(minutes=10)
    ages.refresh()
    assert age(metrics) == 2400


def test_views_that_were_never_applied_have_no_age(ages: Ages, metrics: Metrics) -> None:
    ages.refresh()
    assert age(metrics) is None


@pytest.mark.usefixtures("applied")
def test_a_newer_event_makes_a_view_younger(
    ages: Ages, metrics: Metrics, settings: Settings, use_case: UseCase
) -> None:
    ages.refresh()
    rows = open_rows(use_case, settings)
    rows.note_newest(HOURLY.layout, micros(NOW))
    rows.close()
    ages.refresh()
    assert age(metrics) == 0
