"""Pushed rows: each fits its view, or is refused by row and column before anything else happens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from features.catalog import ViewEntry
from features.push_rows import AHEAD, checked, rows_of_file
from millrace.errors import RequestError

NOW = datetime(2024, 1, 10, 12, tzinfo=UTC)
TYPES = ("String", "Bool", "Int32", "Int64", "Float32", "Float64", "UnixTimestamp")
EVERY = ViewEntry(
    name="every",
    table="features/every",
    path="/lake/features/every",
    layout="every.0",
    join_keys=("line", "stop"),
    key_types=("Int64", "String"),
    features=tuple((dtype.lower(), dtype) for dtype in TYPES),
    ttl=None,
    stale="flag",
    event="event_time",
    created="known_at",
)
ROW: dict[str, Any] = {
    "line": 7,
    "stop": "Quay",
    "event_time": "2024-01-10T11:00:00Z",
    "string": "ü",
    "bool": True,
    "int32": -(2**31),
    "int64": 2**63 - 1,
    "float32": 0.5,
    "float64": 1e300,
    "unixtimestamp": "2024-01-10T12:00:00+02:00",
}


def row(**changes: Any) -> dict[str, Any]:
    return ROW | changes


def refused(*rows: dict[str, Any]) -> tuple[int, str]:
    with pytest.raises(RequestError) as error:
        checked(EVERY, rows, now=NOW)
    return error.value.status, error.value.field


def test_a_row_becomes_a_row_of_a_frame_with_the_declared_types() -> None:
    (found,) = checked(EVERY, [row()], now=NOW).rows(named=True)
    hour = timedelta(hours=1)
    assert found == ROW | {"event_time": NOW - hour, "known_at": None, "unixtimestamp": NOW - 2 * hour}


def test_every_feature_may_be_null() -> None:
    empty = dict.fromkeys((name for name, _ in EVERY.features), None)
    frame = checked(EVERY, [row(**empty)], now=NOW)
    assert frame.select(list(empty)).null_count().row(0) == (1,) * len(empty)


def test_rows_keep_their_order() -> None:
    stops = ["c", "a", "b"]
    assert checked(EVERY, [row(stop=stop) for stop in stops], now=NOW)["stop"].to_list() == stops


def test_a_whole_number_passes_for_a_fraction_and_the_other_way_round() -> None:
    (found,) = checked(EVERY, [row(float64=3, int64=4.0)], now=NOW).rows(named=True)
    assert (found["float64"], found["int64"]) == (3.0, 4)


def test_a_push_has_a_row() -> None:
    assert refused() == (422, "rows")


@pytest.mark.parametrize("name", ["line", "stop", "event_time", "float64"])
def test_a_row_lacks_nothing(name: str) -> None:
    lacking = row(stop="Pier")
    del lacking[name]
    assert refused(row(), lacking) == (422, f"rows[1].{name}")


@pytest.mark.parametrize(("name", "field"), [("speed", "rows[0].speed"), ("<b>", "rows[0]"), ("x" * 100, "rows[0]")])
def test_an_unknown_column_is_named_if_its_name_is_a_plain_word(name: str, field: str) -> None:
    assert refused(row(**{name: 1})) == (422, field)


@pytest.mark.parametrize("name", ["line", "stop", "event_time"])
def test_keys_and_the_event_time_are_not_null(name: str) -> None:
    assert refused(row(**{name: None})) == (422, f"rows[0].{name}")


WRONG: list[tuple[str, Any]] = [
    ("line", "7"),
    ("line", 7.5),
    ("line", True),
    ("stop", 7),
    ("stop", "a\0b"),
    ("stop", "\ud800"),
    ("stop", "x" * 1_001),
    ("event_time", "2024-01-10T11:00:00"),
    ("event_time", "2024-01-10"),
    ("event_time", "yesterday"),
    ("event_time", 1_704_884_400),
    ("event_time", datetime(2024, 1, 10)),  # noqa: DTZ001  # that is what is wrong with it
    ("event_time", "1812-01-01T00:00:00Z"),
    ("event_time", NOW + AHEAD + timedelta(microseconds=1)),
    ("known_at", NOW + AHEAD + timedelta(microseconds=1)),
    ("known_at", "now"),
    ("string", 12345),
    ("bool", 12345),
    ("int32", 2**31),
    ("int32", -(2**31) - 1),
    ("int64", 2**63),
    ("int64", float("nan")),
    ("float32", 1e39),
    ("float32", "0.5"),
    ("float64", float("nan")),
    ("float64", float("-inf")),
    ("float64", 10**400),
    ("float64", [1.0]),
    ("float64", {"a": 1}),
    ("unixtimestamp", "2024-01-10T12:00:00"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_another_type_or_out_of_bounds_is_named_and_not_repeated(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as error:
        checked(EVERY, [row(stop="Pier"), row(**{name: value})], now=NOW)
    assert (error.value.status, error.value.field) == (422, f"rows[1].{name}")
    assert repr(value) not in str(error.value)


def test_a_time_may_be_ahead_by_as_much_as_clocks_differ() -> None:
    frame = checked(EVERY, [row(event_time=NOW + AHEAD, known_at=NOW + AHEAD)], now=NOW)
    assert frame.select("event_time", "known_at").row(0) == (NOW + AHEAD, NOW + AHEAD)


def test_one_entity_is_not_given_twice_at_one_time() -> None:
    assert refused(row(), row(stop="Pier"), row(float64=2.0)) == (422, "rows[2].event_time")


def test_a_known_time_that_is_now_repeats_a_row_without_one() -> None:
    assert refused(row(), row(known_at=NOW)) == (422, "rows[1].event_time")


def test_a_correction_may_come_with_what_it_corrects() -> None:
    earlier = NOW - timedelta(minutes=30)
    assert checked(EVERY, [row(known_at=earlier), row(float64=2.0)], now=NOW).height == 2


def test_a_view_of_lists_cannot_be_pushed_to() -> None:
    from dataclasses import replace

    lists = replace(EVERY, features=(("path", "Array(Float64)"),))
    with pytest.raises(RequestError, match="path is not a single value"):
        checked(lists, [{}], now=NOW)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    frame = checked(EVERY, [row(stop="007"), row(float64=None)], now=NOW).drop("known_at")
    texts = frame.with_columns(pl.col("event_time", "unixtimestamp").dt.to_string("iso:strict"))
    frame.write_parquet(path) if suffix == ".parquet" else texts.write_csv(path)
    assert checked(EVERY, rows_of_file(EVERY, path), now=NOW).drop("known_at").equals(frame)


@pytest.mark.parametrize(
    ("name", "content"),
    [("absent.csv", None), ("empty.csv", b""), ("bad.csv", b"line\nseven\n"), ("bad.parquet", b"PAR1 and no more")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=f"The file {name} cannot be read"):
        rows_of_file(EVERY, tmp_path / name)
