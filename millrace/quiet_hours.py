"""The hours in which nobody wants to be told what can wait: a daily stretch of local time, such as 22:00-07:00.

Knows nothing of alerts; a time zone's own rules say when its clocks change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_TEXT = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)(?: (\S+))?")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `start` until `end` by the clocks of `zone`, each day; past midnight when `end` is the earlier one."""

    start: time
    end: time
    zone: ZoneInfo

    def until(self, moment: datetime) -> datetime | None:
        """When the quiet hours that `moment` falls into end, in UTC; None when it falls into none."""
        local = moment.astimezone(self.zone)
        inside = self._inside(local.time())
        if not inside:
            return None
        day = local.date() if local.time() < self.end else local.date() + timedelta(days=1)
        return datetime.combine(day, self.end, tzinfo=self.zone).astimezone(UTC)

    def _inside(self, now: time) -> bool:
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end


def parse_quiet_hours(text: str) -> QuietHours | None:
    """`22:00-07:00 Europe/Berlin`, without a zone UTC; the empty text is None. Raises `ValueError` for any other."""
    if not text:
        return None
    found = _TEXT.fullmatch(text)
    if found is None or found[1] == found[2]:
        raise ValueError("write quiet hours as 22:00-07:00 Europe/Berlin")
    try:
        zone = ZoneInfo(found[3] or "UTC")
    except (ValueError, OSError, KeyError) as error:  # KeyError: ZoneInfoNotFoundError
        raise ValueError(f"there is no time zone {found[3]}") from error
    return QuietHours(time.fromisoformat(found[1]), time.fromisoformat(found[2]), zone)
