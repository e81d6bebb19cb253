"""The flight example's features on real rows: none uses what was not known two hours before departure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import ModuleType

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import FeatureTable, UseCase

Rows = dict[str, pl.DataFrame]
FeaturesAt = Callable[..., pl.DataFrame]
LEAD = timedelta(hours=2)
FIRST, LAST = datetime(2013, 3, 7, tzinfo=UTC), datetime(2013, 3, 12, tzinfo=UTC)
"""Instants to ask at: with days of rows before them, and a day after."""


def without_later(rows: Rows, at: datetime) -> Rows:
    """The sources as one knew them at an instant."""
    return {name: frame.filter(pl.col("known_at") <= at) for name, frame in rows.items()}


def with_later_changed(rows: Rows, at: datetime) -> Rows:
    """The sources with every number that became known after an instant turned into another."""
    later = pl.col("known_at") > at

    def changed(frame: pl.DataFrame) -> pl.DataFrame:
        numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
        flags = [name for name, dtype in frame.schema.items() if dtype == pl.Boolean]
        turned = [pl.when(later).then(pl.col(name) * -3 + 1000).otherwise(pl.col(name)).alias(name) for name in numbers]
        return frame.with_columns(
            *turned, *(pl.when(later).then(~pl.col(name)).otherwise(name).alias(name) for name in flags)
        )

    return {name: changed(frame) for name, frame in rows.items()}


def leaks(features_at: FeaturesAt, rows: Rows, at: datetime, views: object = None) -> list[str]:
    """The features of the flights asked about at `at` that change when what became known later is gone or different."""
    asked = rows["schedule"].with_columns(asked=pl.col("event_time") - LEAD).filter(pl.col("asked") == at)
    whole = features_at(rows, asked, views)
    others = [features_at(other(rows, at), asked, views) for other in (without_later, with_later_changed)]
    names = [name for name in whole.columns if name not in asked.columns]
    return [name for name in names if not all(whole[name].equals(other[name]) for other in others)]


@settings(max_examples=12)
@given(place=st.integers(0, 10**6))
def test_no_feature_changes_with_what_was_not_known_two_hours_before_departure(
    features_at: FeaturesAt, stretch: Rows, place: int
) -> None:
    asked = (stretch["schedule"]["event_time"] - LEAD).unique().sort()
    instants = asked.filter(asked.is_between(FIRST, LAST))
    assert leaks(features_at, stretch, instants[place % len(instants)]) == []


def planted(flights: object) -> FeatureTable:
    """A table that pretends to know a flight's arrival when it leaves."""

    def build(tables: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
        return tables["flights"].select("carrier", "event_time", known_at="event_time", planted="arr_delay")

    return FeatureTable("planted", build, (flights,), ("carrier",), timedelta(days=1))  # type: ignore[arg-type]  # a Source


def test_a_planted_leak_is_found(
    features_at: FeaturesAt, stretch: Rows, flight_delay: UseCase, module: Callable[[str], ModuleType]
) -> None:
    views = {**module("features").VIEWS, planted(flight_delay.label.source): (6, "planted")}
    at = datetime(2013, 3, 8, 18, tzinfo=UTC)
    assert leaks(features_at, stretch, at, views) == ["planted"]


def test_every_feature_has_values_on_real_rows(features_at: FeaturesAt, stretch: Rows) -> None:
    asked = stretch["schedule"].filter(pl.col("event_time") > FIRST).with_columns(asked=pl.col("event_time") - LEAD)
    found = features_at(stretch, asked)
    empty = {name: found[name].null_count() / found.height for name in found.columns if found[name].null_count()}
    assert max(empty.values()) < 0.75


@pytest.mark.parametrize("first", [datetime(2013, 3, 9, 4, tzinfo=UTC), datetime(2013, 3, 10, 7, 30, tzinfo=UTC)])
def test_rows_need_no_more_than_the_lookback(flight_delay: UseCase, stretch: Rows, first: datetime) -> None:
    for table in flight_delay.feature_tables:
        recent = {
            name: rows.lazy().filter(pl.col("event_time") >= first - table.lookback)  # type: ignore[operator]  # has one
            for name, rows in stretch.items()
        }
        every = {name: rows.lazy() for name, rows in stretch.items()}
        part, whole = (table.build(rows).filter(pl.col("event_time") >= first).collect() for rows in (recent, every))
        keys = [*table.entity, "event_time", "known_at"]
        assert part.sort(keys).equals(whole.sort(keys)), table.name


def test_rows_are_unique_and_known_when_they_happen(flight_delay: UseCase, stretch: Rows) -> None:
    tables = {name: rows.lazy() for name, rows in stretch.items()}
    for table in flight_delay.feature_tables:
        rows = table.build(tables).collect()
        assert not rows.select(*table.entity, "event_time", "known_at").is_duplicated().any(), table.name
        assert (rows["known_at"] >= rows["event_time"]).all()
        assert rows.select(*table.entity, "event_time", "known_at").null_count().sum_horizontal().item() == 0


def test_tables_of_nothing_are_empty(flight_delay: UseCase, stretch: Rows) -> None:
    nothing = {name: rows.clear().lazy() for name, rows in stretch.items()}
    for table in flight_delay.feature_tables:
        assert table.build(nothing).collect().is_empty()


def test_the_flights_that_have_not_left_are_counted_by_hand(flight_delay: UseCase, stretch: Rows) -> None:
    at = datetime(2013, 3, 8, 18, tzinfo=UTC)
    table = next(table for table in flight_delay.feature_tables if table.name == "origin")
    rows = table.build({name: frame.lazy() for name, frame in stretch.items()}).collect()
    left = stretch["departures"].filter(pl.col("known_at") <= at)["flight_id"]
    due = stretch["schedule"].filter(
        pl.col("departs") <= at, pl.col("departs") > at - timedelta(hours=6), ~pl.col("flight_id").is_in(left.implode())
    )
    expected = dict(due.group_by("origin").len().iter_rows())
    found = dict(rows.filter(pl.col("event_time") == at).select("origin", "origin_overdue").iter_rows())
    assert found == {origin: expected.get(origin, 0) for origin in ("EWR", "JFK", "LGA")}
    assert rows.filter(pl.col("event_time") == at)["origin_overdue_all"].to_list() == [sum(expected.values())] * 3


def test_rates_are_those_of_the_hours_before(flight_delay: UseCase, stretch: Rows) -> None:
    at = datetime(2013, 3, 8, 18, tzinfo=UTC)
    table = next(table for table in flight_delay.feature_tables if table.name == "carrier")
    rows = table.build({name: frame.lazy() for name, frame in stretch.items()}).collect()
    day = stretch["flights"].filter(pl.col("known_at") <= at, pl.col("known_at") > at - timedelta(days=1))
    expected = dict(day.group_by("carrier").agg(pl.col("late").mean()).iter_rows())
    found = dict(rows.filter(pl.col("event_time") == at).select("carrier", "carrier_late_1d").iter_rows())
    assert found == pytest.approx(expected)


FACTS = {
    "carrier": ["UA"],
    "origin": ["EWR"],
    "dest": ["IAH"],
    "departs": [datetime(2013, 7, 1, 10, 15, tzinfo=UTC)],
    "block_minutes": [244],
    "route_elapsed": [240.5],
    "aircraft_left": [datetime(2013, 7, 1, 8, 15, tzinfo=UTC).timestamp() // 60],
}


def test_request_facts_are_local_and_relative(module: Callable[[str], ModuleType]) -> None:
    found = {name: values[0] for name, values in module("features").flight_facts(FACTS).items()}
    assert found["departure_minute"] == 6 * 60 + 15
    assert (found["weekday"], found["spare"], found["away"], found["dest_code"]) == (1, 3.5, 120, "IAH")


@pytest.mark.parametrize("missing", list(FACTS))
def test_a_missing_request_fact_leaves_the_others(missing: str, module: Callable[[str], ModuleType]) -> None:
    whole = module("features").flight_facts(FACTS)
    found = module("features").flight_facts(FACTS | {missing: [None]})
    lost = [name for name in found if found[name] != whole[name]]
    assert all(found[name] == [None] for name in lost)
    assert 1 <= len(lost) <= 3
