"""The point-in-time join against a brute-force one, and the facts that it must keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from features.asof import FeatureRows, join_asof, latest

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def rows(*values: tuple[str | None, float, float, Any]) -> pl.LazyFrame:
    """Feature rows as (key, event hour, known hour, value)."""
    return pl.LazyFrame(
        {
            "key": [key for key, *_ in values],
            "event_time": [at(event) for _, event, _, _ in values],
            "known_at": [at(known) for _, _, known, _ in values],
            "value": [value for *_, value in values],
        },
        schema={"key": pl.String, "event_time": INSTANT, "known_at": INSTANT, "value": pl.Int64},
    )


def view(values: pl.LazyFrame, ttl: timedelta | None = None) -> FeatureRows:
    return FeatureRows(values, {"key": "key"}, {"value": "value"}, "event_time", "known_at", ttl)


def asked(*values: tuple[str | None, float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {"key": [key for key, _ in values], "t": [None if hour is None else at(hour) for _, hour in values]},
        schema={"key": pl.String, "t": INSTANT},
    )


def answers(frame: pl.DataFrame, of: FeatureRows) -> list[Any]:
    return join_asof(frame, "t", [of])["value"].to_list()


def brute_force(frame: pl.DataFrame, of: list[tuple[str | None, float, float, Any]], ttl: float | None) -> list[Any]:
    found = []
    for key, moment in frame.rows():
        best = None
        for theirs, event, known, value in of:
            if key is None or theirs != key or moment is None or at(event) > moment or at(known) > moment:
                continue
            if best is None or (event, known) >= best[:2]:
                best = (event, known, value)
        if best is not None and ttl is not None and at(best[0]) < moment - timedelta(hours=ttl):
            best = None
        found.append(None if best is None else best[2])
    return found


hours = st.integers(0, 12)
keys = st.sampled_from(["a", "b", None])


@settings(max_examples=1000)
@given(
    st.lists(st.tuples(keys, hours, hours), max_size=20, unique=True),
    st.lists(st.tuples(keys, hours | st.none()), max_size=12),
    st.none() | st.integers(0, 6),
)
def test_equals_a_brute_force_join(
    features: list[tuple[str | None, int, int]], questions: list[tuple[str | None, int | None]], ttl: int | None
) -> None:
    values: list[tuple[str | None, float, float, Any]] = [
        (key, event, known, number) for number, (key, event, known) in enumerate(features)
    ]
    frame = asked(*questions)
    found = answers(frame, view(rows(*values), None if ttl is None else timedelta(hours=ttl)))
    assert found == brute_force(frame, values, ttl)


def test_a_row_is_not_seen_before_it_is_known() -> None:
    assert answers(asked(("a", 2), ("a", 3)), view(rows(("a", 1, 3, 7)))) == [None, 7]


def test_a_correction_does_not_reach_rows_before_it_was_known() -> None:
    corrected = view(rows(("a", 1, 1, 7), ("a", 1, 5, 8)))
    assert answers(asked(("a", 4), ("a", 5)), corrected) == [7, 8]


def test_a_late_row_of_an_older_event_does_not_replace_a_newer_event() -> None:
    assert answers(asked(("a", 6)), view(rows(("a", 3, 3, 7), ("a", 2, 5, 8)))) == [7]


def test_a_value_as_old_as_its_ttl_is_still_there() -> None:
    of = view(rows(("a", 1, 1, 7)), timedelta(hours=2))
    assert answers(asked(("a", 3), ("a", 3.001)), of) == [7, None]


def test_an_older_row_does_not_stand_in_for_a_null_in_the_newest() -> None:
    assert answers(asked(("a", 3)), view(rows(("a", 1, 1, 7), ("a", 2, 2, None)))) == [None]


def test_rows_keep_their_order_and_columns() -> None:
    frame = asked(("b", 5), ("a", 1), ("b", 2)).with_columns(extra=pl.Series([1, 2, 3]))
    joined = join_asof(frame, "t", [view(rows(("b", 1, 1, 7)))])
    assert joined.drop("value").equals(frame)


def test_a_view_may_be_joined_on_columns_of_other_names() -> None:
    frame = asked(("a", 2)).rename({"key": "origin"})
    of = FeatureRows(rows(("a", 1, 1, 7)), {"key": "origin"}, {"value": "origin_value"}, "event_time", "known_at", None)
    assert join_asof(frame, "t", [of])["origin_value"].to_list() == [7]


def test_several_join_keys_must_all_match() -> None:
    table = rows(("a", 1, 1, 7)).with_columns(other=pl.lit("x"))
    of = FeatureRows(table, {"key": "key", "other": "other"}, {"value": "value"}, "event_time", "known_at", None)
    frame = asked(("a", 2), ("a", 2)).with_columns(other=pl.Series(["x", "y"]))
    assert answers(frame, of) == [7, None]


def test_without_a_created_column_a_row_is_known_when_it_happens() -> None:
    of = FeatureRows(rows(("a", 1, 9, 7)), {"key": "key"}, {"value": "value"}, "event_time", None, None)
    assert answers(asked(("a", 1)), of) == [7]


def test_the_latest_row_of_each_entity_is_the_newest_event_then_the_last_known() -> None:
    table = rows(("a", 1, 1, 1), ("a", 2, 2, 2), ("a", 2, 3, 3), ("a", 4, 4, 4), ("b", 1, 9, 5))
    assert latest(view(table), at(3)).select("key", "value").rows() == [("a", 3)]


def test_the_latest_row_is_left_out_once_it_has_expired() -> None:
    of = view(rows(("a", 1, 1, 7)), timedelta(hours=2))
    assert [latest(of, at(hour))["value"].to_list() for hour in (3, 3.001)] == [[7], []]
