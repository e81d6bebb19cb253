"""Cron lines: when they last fired, as Prefect would schedule them, and which lines are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.cron import parse_cron

NOON = datetime(2024, 3, 6, 12, 0, 30, tzinfo=UTC)  # a Wednesday


@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("0 * * * *", "2024-03-06 12:00"),
        ("1 * * * *", "2024-03-06 11:01"),
        ("30 0 * * *", "2024-03-06 00:30"),
        ("30 12 * * *", "2024-03-05 12:30"),
        ("*/7 8-10 * * *", "2024-03-06 10:56"),
        ("0 6 * * mon", "2024-03-04 06:00"),
        ("0 6 * * 7", "2024-03-03 06:00"),
        ("0 6 29 feb *", "2024-02-29 06:00"),
        ("0 6 1 * fri", "2024-03-01 06:00"),
        ("0 6 5 * fri", "2024-03-05 06:00"),
    ],
)
def test_a_line_last_fired(line: str, last: str) -> None:
    assert f"{parse_cron(line).last(NOON):%Y-%m-%d %H:%M}" == last


@pytest.mark.parametrize(
    "line",
    [
        *("", "hourly", "0 * * *", "60 * * * *", "* 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8"),
        *("0 0 * * someday", "5-1 * * * *", "1-1 * * * *", "*/0 * * * *", "0 0 30 feb *"),
        *("1,,2 * * * *", "-1 * * * *", "1.5 * * * *", "² * * * *"),
    ],
)
def test_a_line_that_means_nothing_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"is no |5 fields|never fires"):
        parse_cron(line)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    pair = st.tuples(st.integers(low, high), st.integers(low, high)).filter(lambda ends: ends[0] < ends[1])
    span = pair.map(lambda ends: f"{ends[0]}-{ends[1]}")
    step = st.integers(2, 15).map(lambda size: f"*/{size}")
    return st.one_of(st.just("*"), number, span, step, st.lists(number, min_size=2, max_size=3).map(",".join))


@given(
    st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join),
    st.integers(0, 2 * 365 * 24 * 60).map(lambda minutes: NOON - timedelta(minutes=minutes)),
)
def test_lines_fire_when_prefect_says(line: str, moment: datetime) -> None:
    croniter = import_module("prefect._vendor.croniter").croniter
    later = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
    assert parse_cron(line).last(moment) == croniter(line, later).get_prev(datetime)
