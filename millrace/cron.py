"""Cron lines of five fields, in UTC: minute, hour, day of the month, month, day of the week.

Fields are `*`, numbers, ranges, lists and steps; months and days of the week may be names. When both kinds of day are
restricted either is enough, as everywhere. The one question answered here is when a line last fired; running what is
due is the pipelines' business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {
    "month": {name: number for number, name in enumerate(_MONTHS, 1)},
    "weekday": {name: number for number, name in enumerate(_WEEKDAYS)},
}
_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")
_DAYS_BACK = 8 * 366
"""29 February may be eight years apart."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed line: what each field allows. Weekdays count from Sunday, 0; `either` kind of day is enough when
    neither is `*`."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def last(self, moment: datetime) -> datetime:
        """The latest time at or before `moment` at which the line fires, in UTC.

        Raises `ValueError` when there is none within eight years: a 30 February.
        """
        moment = moment.astimezone(UTC).replace(second=0, microsecond=0)
        midnight = moment.replace(hour=0, minute=0)
        for back in range(_DAYS_BACK):
            day = midnight - timedelta(days=back)
            if self._on(day):
                until = moment if back == 0 else day + timedelta(days=1, minutes=-1)
                found = self._at(until)
                if found is not None:
                    return found
        raise ValueError("it never fires")

    def _on(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday if self.either else by_date and by_weekday

    def _at(self, until: datetime) -> datetime | None:
        """The last time of that day at or before it."""
        for hour in sorted(self.hours, reverse=True):
            minutes = [minute for minute in self.minutes if (hour, minute) <= (until.hour, until.minute)]
            if minutes:
                return until.replace(hour=hour, minute=max(minutes))
        return None


def parse_cron(line: str) -> Cron:
    """Read a line; raises `ValueError` that says which field is wrong."""
    fields = line.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"a cron line has 5 fields, {line!r} has {len(fields)}")
    values = [_values(text, *field) for text, field in zip(fields, _FIELDS, strict=True)]
    weekdays = frozenset(value % 7 for value in values[4])
    cron = Cron(values[0], values[1], values[2], values[3], weekdays, "*" not in (fields[2], fields[4]))
    cron.last(datetime(2024, 3, 1, tzinfo=UTC))
    return cron


def _values(text: str, field: str, low: int, high: int) -> frozenset[int]:
    return frozenset(value for part in text.split(",") for value in _part(part.lower(), field, low, high))


def _part(text: str, field: str, low: int, high: int) -> range:
    found = _PART.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no {field}")
    star, first, last, step = found.groups()
    start = low if star else _number(first, field, low, high)
    end = (min(high, 6) if field == "weekday" else high) if star or (step and not last) else start
    end = _number(last, field, low, high) if last else end
    if start > end or (last and start == end) or step == "0":  # of 1-1 Prefect would make every day
        raise ValueError(f"{text!r} is no {field}")
    return range(start, end + 1, int(step or 1))


def _number(text: str, field: str, low: int, high: int) -> int:
    value = _NAMES.get(field, {}).get(text, int(text) if text.isdecimal() else -1)
    if not low <= value <= high:
        raise ValueError(f"{text!r} is no {field}: {low} to {high}")
    return value
