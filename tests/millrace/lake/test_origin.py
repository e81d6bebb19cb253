"""Which batches brought some rows: by the files of their commits, by their ranges where those are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from millrace.lake import Lake
from millrace.lake.care import compact, vacuum
from millrace.lake.origin import origins

START = datetime(2024, 1, 1, tzinfo=UTC)
TABLE = "raw/x"


def at(hours: int) -> datetime:
    return START + timedelta(hours=hours)


def ingest(lake: Lake, since: int, until: int, rows: dict[str, int]) -> None:
    """Merge rows (key to known hour) as the batch of a range of hours."""
    frame = pl.DataFrame(
        {"key": list(rows), "known_at": [at(hour) for hour in rows.values()]},
        schema={"key": pl.String, "known_at": pl.Datetime("us", "UTC")},
    )
    about = {"source": "x", "since": at(since).isoformat(), "until": at(until).isoformat()}
    lake.merge(TABLE, frame, key=["key"], batch=f"{since}-{until}", about=about)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two batches of new rows, one that reads a row again and corrects another, and a last one."""
    lake = Lake(str(tmp_path / "lake"))
    ingest(lake, 0, 10, {"a": 1, "b": 2})
    ingest(lake, 10, 20, {"c": 11})
    ingest(lake, 8, 30, {"c": 11, "a": 25})
    ingest(lake, 30, 40, {"d": 31})
    return lake


def found(lake: Lake, *, version: int) -> list[tuple[str | None, int, bool]]:
    rows = lake.scan(TABLE, version=version).select("key", "known_at").collect()
    return [(one.commit.batch, one.rows, one.exact) for one in origins(lake, TABLE, rows, version=version)]


def test_each_row_is_told_of_the_batch_that_brought_it_as_it_is(lake: Lake) -> None:
    assert found(lake, version=3) == [("0-10", 1, True), ("10-20", 1, True), ("8-30", 1, True), ("30-40", 1, True)]


def test_an_earlier_version_has_the_row_before_its_correction(lake: Lake) -> None:
    assert found(lake, version=1) == [("0-10", 2, True), ("10-20", 1, True)]


def test_a_compaction_hides_no_origin(lake: Lake) -> None:
    compact(lake, TABLE)
    assert [one[0] for one in found(lake, version=4)] == ["0-10", "10-20", "8-30", "30-40"]


def test_what_was_vacuumed_is_told_by_its_range(lake: Lake) -> None:
    compact(lake, TABLE)
    vacuum(lake, TABLE, older_than=timedelta(0))
    told = found(lake, version=4)
    assert ("30-40", 1, False) in told
    assert ("8-30", 2, False) in told  # c may have come with it as well as with 10-20


def test_rows_that_no_range_holds_have_no_origin(lake: Lake) -> None:
    strange = pl.DataFrame(
        {"key": ["z"], "known_at": [at(99)]}, schema_overrides={"known_at": pl.Datetime("us", "UTC")}
    )
    assert origins(lake, TABLE, strange, version=3) == []
