"""What a batch is compared with: the stretches before it, as many as there are, or nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from millrace.lake import Lake
from pipelines.ingest.past import STRETCH, Past, read_past

FIRST, DAY, HOUR = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Sixty days of one row an hour by day; from midnight to six none. Events lie a quarter of an hour ahead."""
    hours = [FIRST + number * HOUR for number in range(60 * 24)]
    known = pl.Series("known_at", [at for at in hours if at.hour >= 6], dtype=pl.Datetime("us", "UTC"))
    lake = Lake(str(tmp_path))
    lake.append("raw/shop", pl.DataFrame([known, known.dt.offset_by("15m").alias("event_time")]))
    return lake


def past(lake: Lake, since: datetime, length: timedelta) -> Past:
    found = read_past(lake, "raw/shop", since, since + length)
    assert found is not None
    return found


def test_eight_stretches_before_the_batch_are_looked_at(lake: Lake) -> None:
    seen = past(lake, FIRST + 59 * DAY, 7 * DAY)
    assert (seen.stretches, seen.since, seen.fewest, seen.height) == (8, FIRST + 3 * DAY, 126, 56 * 18)


def test_short_batches_are_compared_with_four_weeks(lake: Lake) -> None:
    seen = past(lake, FIRST + 40 * DAY + 5 * HOUR, HOUR)
    assert (seen.stretches, seen.fewest) == (28 * 24, 0)


def test_the_longest_silence_is_a_night(lake: Lake) -> None:
    assert past(lake, FIRST + 40 * DAY, DAY).silence == 7 * HOUR


def test_the_silence_before_the_batch_counts_too(lake: Lake) -> None:
    seen = past(lake, FIRST + 62 * DAY, DAY)
    assert (seen.silence, seen.last) == (2 * DAY + HOUR, FIRST + 60 * DAY - HOUR)


def test_how_far_events_lay_ahead_is_known(lake: Lake) -> None:
    assert past(lake, FIRST + 40 * DAY, DAY).lead == timedelta(minutes=15)


def test_rows_known_later_are_not_looked_at(lake: Lake) -> None:
    rows = past(lake, FIRST + 40 * DAY, DAY).rows.select(pl.col("known_at").max()).collect().item()
    assert rows <= FIRST + 40 * DAY


def test_stretches_are_counted_back_from_the_batch(lake: Lake) -> None:
    newest = past(lake, FIRST + 40 * DAY, DAY).rows.filter(pl.col(STRETCH) == 0).collect()["known_at"]
    assert (newest.min(), newest.max()) == (FIRST + 39 * DAY + 6 * HOUR, FIRST + 39 * DAY + 23 * HOUR)


def test_a_first_stretch_that_is_mostly_there_counts_as_one(lake: Lake) -> None:
    seen = past(lake, FIRST + 28 * DAY, 7 * DAY)
    assert (seen.stretches, seen.fewest) == (4, 126)


@pytest.mark.parametrize(
    ("since", "length"),
    [
        (FIRST, DAY),
        (FIRST + 19 * DAY, DAY),
        (FIRST + 40 * DAY, 40 * DAY),
        (datetime(1970, 1, 1, tzinfo=UTC), 50 * 365 * DAY),
        (FIRST + 40 * DAY, timedelta(0)),
        (FIRST + 40 * DAY, -DAY),
        (FIRST + 200 * DAY, DAY),
        (FIRST + 40 * DAY, 7000 * 365 * DAY),
    ],
    ids=[
        "its start",
        "19 days",
        "one stretch",
        "from 1970",
        "no range",
        "a range backwards",
        "long silent",
        "for ever",
    ],
)
def test_a_past_too_short_is_none(lake: Lake, since: datetime, length: timedelta) -> None:
    assert read_past(lake, "raw/shop", since, since + length) is None


def test_a_table_that_is_not_there_is_none(lake: Lake) -> None:
    assert read_past(lake, "raw/none", FIRST + 40 * DAY, FIRST + 41 * DAY) is None
