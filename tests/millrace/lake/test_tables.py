"""The lake's commits: atomic, once per batch, newest known wins, and readable as they were."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.errors import LakeError
from millrace.lake import Lake, open_lake
from millrace.settings import Settings

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def rows(*values: tuple[int | None, int, float]) -> pl.DataFrame:
    """Rows as (key, known hour, value)."""
    return pl.DataFrame(
        {
            "key": [key for key, _, _ in values],
            "event_time": [START] * len(values),
            "known_at": [START + timedelta(hours=hour) for _, hour, _ in values],
            "value": [value for _, _, value in values],
        },
        schema={"key": pl.Int64, "event_time": INSTANT, "known_at": INSTANT, "value": pl.Float64},
    )


def values(lake: Lake, table: str = "raw/x", **options: Any) -> list[tuple[Any, ...]]:
    return lake.scan(table, **options).select("key", "value").sort("key", "value").collect().rows()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_appended_rows_are_read_back_with_their_types(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.5)))
    assert lake.scan("raw/x").collect().equals(rows((1, 0, 1.5)))


def test_a_batch_is_appended_once(lake: Lake) -> None:
    first = lake.append("raw/x", rows((1, 0, 1.0)), batch="b")
    again = lake.append("raw/x", rows((1, 0, 1.0)), batch="b")
    assert (first.repeated, first.rows, again.repeated, again.rows, again.version) == (False, 1, True, 0, 0)
    assert lake.scan("raw/x").collect().height == 1


def test_the_same_rows_under_another_batch_are_appended(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)), batch="a")
    lake.append("raw/x", rows((1, 0, 1.0)), batch="b")
    assert lake.scan("raw/x").collect().height == 2


def test_merge_updates_a_row_that_is_known_later(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 0, 1.0), (2, 0, 2.0)), key=["key"])
    commit = lake.merge("raw/x", rows((1, 1, 9.0), (3, 0, 3.0)), key=["key"])
    assert commit.rows == 2
    assert values(lake) == [(1, 9.0), (2, 2.0), (3, 3.0)]


def test_merge_keeps_a_row_that_is_known_as_late_or_later(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 5, 1.0)), key=["key"])
    assert lake.merge("raw/x", rows((1, 5, 9.0)), key=["key"]).rows == 0
    assert lake.merge("raw/x", rows((1, 4, 9.0)), key=["key"]).rows == 0
    assert values(lake) == [(1, 1.0)]


def test_of_equal_keys_in_one_merge_the_newest_known_counts(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 2, 2.0), (1, 3, 3.0), (1, 1, 1.0)), key=["key"])
    lake.merge("raw/x", rows((1, 4, 4.0), (1, 6, 6.0), (1, 5, 5.0)), key=["key"])
    assert values(lake) == [(1, 6.0)]


def test_a_batch_whose_merge_changes_nothing_is_still_remembered(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"], batch="a")
    lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"], batch="b")
    assert lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"], batch="b").repeated


def test_a_null_key_is_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="no value in the key column key"):
        lake.merge("raw/x", rows((None, 0, 1.0)), key=["key"])
    assert not lake.exists("raw/x")


def test_earlier_values_stay_readable_at_earlier_versions(lake: Lake) -> None:
    before = lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"]).version
    lake.merge("raw/x", rows((1, 1, 9.0)), key=["key"])
    assert values(lake, version=before) == [(1, 1.0)]


def test_the_cursor_is_what_the_last_commit_said(lake: Lake) -> None:
    assert lake.cursor("raw/x") is None
    lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"], cursor=START)
    lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"], cursor=START + timedelta(microseconds=1))
    lake.append("raw/x", rows((2, 0, 1.0)))
    assert lake.cursor("raw/x") == START + timedelta(microseconds=1)


def test_replace_puts_rows_in_the_place_of_those_it_names(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0), (2, 0, 2.0)))
    lake.replace("raw/x", rows((2, 0, 9.0)), where="key >= 2", marks={"done": 7})
    assert values(lake) == [(1, 1.0), (2, 9.0)]
    assert lake.marks("raw/x", ["done", "other"]) == {"done": 7}


def test_replace_of_the_whole_table_may_change_its_columns(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    lake.replace("raw/x", rows((2, 0, 9.0)).with_columns(new=pl.lit("a")))
    assert lake.scan("raw/x").collect().columns == ["key", "event_time", "known_at", "value", "new"]


def test_changes_are_the_rows_that_an_earlier_version_did_not_have(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 0, 1.0), (2, 0, 2.0)), key=["key"])
    version = lake.version("raw/x")
    lake.merge("raw/x", rows((2, 1, 9.0), (3, 0, 3.0)), key=["key"])
    changed = lake.changes("raw/x", since=version).select("key", "value").sort("key").collect().rows()
    assert changed == [(2, 9.0), (3, 3.0)]
    assert lake.changes("raw/x", since=lake.version("raw/x")).collect().is_empty()


def test_changes_know_columns_that_came_later(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    lake.append("raw/x", rows((2, 0, 2.0)))
    lake.append("raw/x", rows((3, 0, 3.0)).with_columns(new=pl.lit("a")))
    assert lake.changes("raw/x", since=0).select("key", "new").sort("key").collect().rows() == [(2, None), (3, "a")]


def test_rows_that_lack_a_column_of_the_table_are_null_there(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 0, 1.0)).with_columns(new=pl.lit("a")), key=["key"])
    lake.merge("raw/x", rows((2, 0, 2.0)), key=["key"])
    assert lake.scan("raw/x").select("key", "new").sort("key").collect().rows() == [(1, "a"), (2, None)]


def test_a_column_of_another_type_is_refused_and_nothing_is_written(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    with pytest.raises(LakeError, match="do not fit the table 'raw/x': value is String, not Float64"):
        lake.append("raw/x", rows((2, 0, 1.0)).with_columns(value=pl.lit("word")))
    assert values(lake) == [(1, 1.0)]


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        (pl.Series("c", [1, 2], pl.UInt32), pl.Int64),
        (pl.Series("c", ["a", "b"], pl.Categorical), pl.String),
        (pl.Series("c", [None, None]), pl.String),
        (pl.Series("c", [START, START], pl.Datetime("ns", "UTC")), INSTANT),
        (pl.Series("c", [[1], None], pl.List(pl.Int64)), pl.List(pl.Int64)),
    ],
)
def test_types_that_delta_lacks_are_stored_as_the_nearest(lake: Lake, column: pl.Series, stored: pl.DataType) -> None:
    lake.append("raw/x", rows((1, 0, 1.0), (2, 0, 2.0)).with_columns(column))
    assert lake.scan("raw/x").collect_schema()["c"] == stored


def test_arrays_of_a_fixed_length_are_lists_in_every_commit(lake: Lake) -> None:
    for number in (1, 2):
        image = pl.Series("image", [[number, 0.5]], pl.Array(pl.Float64, 2))
        lake.append("raw/x", rows((number, 0, 1.0)).with_columns(image))
    assert lake.scan("raw/x").sort("key").collect()["image"].to_list() == [[1.0, 0.5], [2.0, 0.5]]


def test_an_untyped_column_takes_the_type_that_the_table_has(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    lake.append("raw/x", rows((2, 0, 1.0)).with_columns(value=pl.lit(None)))
    assert values(lake) == [(1, 1.0), (2, None)]


def test_a_missing_table_says_where_it_would_lie_and_what_there_is(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    with pytest.raises(LakeError, match=r"no table 'raw/y'.*holds raw/x.*millrace ingest"):
        lake.scan("raw/y")


def test_a_missing_version_is_named(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    with pytest.raises(LakeError, match="at version 9"):
        lake.scan("raw/x", version=9)


def test_a_table_is_read_as_it_was_at_a_moment(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    first = lake.history("raw/x")[0].at
    time.sleep(0.002)  # commits are told apart by the millisecond
    lake.append("raw/x", rows((2, 0, 2.0)))
    assert values(lake, at=first) == [(1, 1.0)]
    assert values(lake, at=first + timedelta(days=1)) == [(1, 1.0), (2, 2.0)]


def test_a_moment_before_the_first_commit_is_named(lake: Lake) -> None:
    lake.append("raw/x", rows((1, 0, 1.0)))
    with pytest.raises(LakeError, match="did not exist at 2024-01-01"):
        lake.scan("raw/x", at=START)


def test_history_tells_what_each_commit_did(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 0, 1.0)), key=["key"], batch="a", about={"source": "x"})
    lake.replace("raw/x", rows((2, 0, 2.0)))
    newest, first = lake.history("raw/x")
    assert (newest.number, newest.did, newest.batch, newest.wrote) == (1, "replace", None, None)
    assert (first.number, first.did, first.batch, first.about) == (0, "merge", "a", {"source": "x"})
    assert first.wrote is not None
    assert (first.wrote.rows, first.wrote.whole) == (1, True)


def test_a_batchs_digest_is_of_the_rows_that_it_wrote(lake: Lake) -> None:
    lake.merge("raw/x", rows((1, 0, 1.0), (2, 0, 2.0)), key=["key"], batch="a")
    lake.merge("raw/x", rows((2, 0, 2.0), (1, 1, 9.0), (3, 0, 3.0)), key=["key"], batch="b")
    wrote = lake.history("raw/x")[0].wrote
    assert wrote is not None
    assert wrote.describes(rows((3, 0, 3.0), (1, 1, 9.0)))
    assert not wrote.describes(rows((3, 0, 3.0), (1, 1, 9.5)))
    assert not wrote.describes(rows((3, 0, 3.0)))


def test_changes_between_two_versions_are_the_rows_of_the_later_one(lake: Lake) -> None:
    for number in range(3):
        lake.merge("raw/x", rows((number, 0, 1.0), (9, number, 1.0)), key=["key"])
    changed = lake.changes("raw/x", since=0, until=1).select("key").collect()["key"].to_list()
    assert sorted(changed) == [1, 9]
    assert lake.changes("raw/x", since=-1, until=0).collect().height == 2


def test_marks_are_read_as_of_a_version(lake: Lake) -> None:
    for number in range(2):
        lake.replace("raw/x", rows((1, 0, 1.0)), marks={"m": number})
    assert (lake.marks("raw/x", ["m"], version=0), lake.marks("raw/x", ["m"])) == ({"m": 0}, {"m": 1})


def test_a_folder_with_a_space_is_read_like_any_other(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "a lake"))
    for number in range(2):
        lake.append("raw/x", rows((number, 0, 1.0)))
    assert lake.changes("raw/x", since=0).collect()["key"].to_list() == [1]


def test_tables_are_listed_by_name(lake: Lake) -> None:
    assert lake.tables() == []
    lake.append("raw/x", rows((1, 0, 1.0)))
    lake.append("features/y", rows((1, 0, 1.0)))
    assert lake.tables() == ["features/y", "raw/x"]


def test_writers_at_the_same_time_lose_nothing(lake: Lake) -> None:
    def write(number: int) -> bool:
        return lake.merge(
            "raw/x", rows((number % 8, 0, float(number % 8))), key=["key"], batch=f"b{number % 8}"
        ).repeated

    with ThreadPoolExecutor(8) as pool:
        repeated = list(pool.map(write, range(16)))
    assert values(lake) == [(number, float(number)) for number in range(8)]
    assert sum(repeated) == 8


def test_each_use_case_has_a_lake_of_its_own(tmp_path: Path) -> None:
    assert open_lake(Settings(home=tmp_path), "one").uri("raw/x") == f"{tmp_path}/lake/one/raw/x"
