"""Quiet hours: which moments fall into them, by which clock, and what cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from millrace.quiet_hours import parse_quiet_hours


def at(hour: int, minute: int = 0, *, month: int = 1, day: int = 10) -> datetime:
    return datetime(2024, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment", "until"),
    [
        ("22:00-07:00", at(23), at(7, day=11)),
        ("22:00-07:00", at(3), at(7)),
        ("22:00-07:00", at(7), None),
        ("22:00-07:00", at(21, 59), None),
        ("12:00-13:30", at(12), at(13, 30)),
        ("12:00-13:30", at(11), None),
        ("22:00-07:00 Europe/Berlin", at(21, 30), at(6, day=11)),
        ("22:00-07:00 Europe/Berlin", at(6, 30), None),
        ("22:00-07:00 Europe/Berlin", at(20, 30, month=7), at(5, month=7, day=11)),  # summer: one hour earlier in UTC
        ("22:00-07:00 Europe/Berlin", at(22, 0, month=3, day=30), at(5, month=3, day=31)),  # the clocks change inside
    ],
)
def test_they_end_by_the_clocks_of_their_zone(text: str, moment: datetime, until: datetime | None) -> None:
    hours = parse_quiet_hours(text)
    assert hours is not None
    assert hours.until(moment) == until


def test_no_text_is_no_quiet_hours() -> None:
    assert parse_quiet_hours("") is None


@pytest.mark.parametrize(
    "text", ["night", "22:00", "25:00-07:00", "22:00-22:00", "22:00-07:00 Mars/Base", "22:00-07:00 ../../etc/passwd"]
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quiet hours|time zone"):
        parse_quiet_hours(text)
