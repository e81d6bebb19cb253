"""Whoever fails again and again has to wait: per client address, and per key whose id was named.

Ten wrong keys within a minute lock for 30 seconds, the next ten for twice as long, up to a quarter of an hour. Of
those that failed the least lately are forgotten, so that memory is bounded. What a lock means for a right key is the
guard's business. The clock is passed in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

FAILURES = 10
"""Wrong keys within `WINDOW` that lock."""
WINDOW = timedelta(minutes=1)
FIRST = timedelta(seconds=30)
LONGEST = timedelta(minutes=15)
REMEMBERED = 10_000
"""Addresses and keys that are remembered, about 3 MB."""


@dataclass(slots=True)
class _Record:
    since: datetime
    failures: int = 0
    locks: int = 0
    until: datetime | None = None


class Lockout:
    """Counts failures and says who has to wait."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._remembered = remembered

    def wait(self, who: str, now: datetime) -> int:
        """Seconds, rounded up, that `who` is still locked; 0 for whom is not."""
        record = self._records.get(who)
        if record is None or record.until is None or record.until <= now:
            return 0
        return math.ceil((record.until - now).total_seconds())

    def fail(self, who: str, now: datetime) -> int:
        """Count a failure and return what `wait` returns then; while locked, failures are not counted."""
        waiting = self.wait(who, now)
        if waiting:
            return waiting
        record = self._records.setdefault(who, _Record(now))
        self._records.move_to_end(who)
        if len(self._records) > self._remembered:
            self._records.popitem(last=False)
        if now - record.since > WINDOW:
            calm = now - (record.until or record.since) > LONGEST
            record.since, record.failures, record.locks = now, 0, 0 if calm else record.locks
        record.failures += 1
        if record.failures >= FAILURES:
            record.until = now + min(FIRST * 2 ** min(record.locks, 10), LONGEST)
            record.since, record.failures, record.locks = record.until, 0, record.locks + 1
        return self.wait(who, now)
