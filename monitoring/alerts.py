"""What people are told of, once: an alert is raised by a cause, repeated as a reminder, and resolved when that is over.

The same cause of a use case is told once in a period, however often it is seen; when it gets more severe, and when it
comes back after people were told that it is over, it is told at once. So the last that anybody heard is never better
than the truth. Messages are put into the outbox of the platform's database, which `monitoring.delivery` empties; they
go to every destination that the settings list under this severity or a lower one. Times are about now, never about
`as_of`: people are told today of what is seen today. What may cause an alert is the pipelines' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from millrace.db import AlertRow, Alerts, Noted, PostRow
from millrace.quiet_hours import QuietHours, parse_quiet_hours
from millrace.settings import Settings, Severity

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""The mildest first."""
_TITLE = 200
"""Characters of a title; messages of phones and chats show fewer."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell: `cause` says of two notices whether they are about the same trouble.

    One that does not last (a promotion) is never open, and there is nothing to resolve.
    """

    use_case: str
    cause: str
    severity: Severity
    title: str
    body: str
    lasts: bool = True


@dataclass(frozen=True, slots=True)
class Destination:
    """Where messages go. `name` tells people which it is; the URL holds secrets and shows nowhere."""

    severity: Severity
    place: int
    url: str = field(repr=False)

    @property
    def id(self) -> str:
        """A digest of the URL, by which the outbox knows it."""
        return sha256(self.url.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Its place in the settings and its kind: `warning 1 (slack)`."""
        return f"{self.severity} {self.place} ({self.url.split(':', 1)[0].lower()})"


@dataclass(frozen=True, slots=True)
class Policy:
    """Whom to tell, how often, and when not."""

    destinations: Sequence[Destination]
    period: timedelta
    quiet: QuietHours | None

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """The one that the settings describe."""
        period = timedelta(hours=settings.alert_repeat_hours)
        return cls(destinations(settings.alerts), period, parse_quiet_hours(settings.alert_quiet))

    def posts(self, severity: Severity, title: str, body: str, now: datetime) -> list[PostRow]:
        """A message to each destination that is told of this severity; in quiet hours it waits for their end."""
        quiet_until = self.quiet.until(now) if self.quiet and severity != "critical" else None
        told = {
            destination.id: PostRow(destination.id, severity, title[:_TITLE], body, now, quiet_until or now)
            for destination in self.destinations
            if _rank(destination.severity) <= _rank(severity)
        }
        return list(told.values())  # a URL under two severities is told once


def destinations(urls: Mapping[Severity, Sequence[str]]) -> list[Destination]:
    """Those of the setting, in its order."""
    return [Destination(severity, place, url) for severity, given in urls.items() for place, url in enumerate(given, 1)]


def raise_alert(alerts: Alerts, policy: Policy, notice: Notice, *, now: datetime) -> AlertRow:
    """Note that this is so, and tell whoever has to be told."""

    def change(newest: AlertRow | None) -> Noted:
        row = newest if newest and not _over(newest, policy, now) else None
        tell = row is None or _must_tell(row, notice, policy, now)
        title = f"[{notice.use_case}] {notice.severity}: {notice.title}"
        row = _opened(notice, now) if row is None else _seen_again(row, notice, now)
        if not tell:
            return Noted(row)
        row.told_at = now
        return Noted(row, policy.posts(notice.severity, title, notice.body, now))

    noted = alerts.note(notice.use_case, notice.cause, change)
    assert noted is not None  # noqa: S101  # `change` never says that nothing becomes of it
    return noted


def resolve_alert(alerts: Alerts, policy: Policy, use_case: str, cause: str, *, now: datetime) -> AlertRow | None:
    """Note that this cause is over, and tell those who heard of it; None when it was not open.

    A cause that comes and goes within a period is told to be over once: after that the last word is that it is there.
    """

    def change(newest: AlertRow | None) -> Noted | None:
        if newest is None or newest.resolved_at is not None:
            return None
        newest.resolved_at = now
        if newest.resolved_told_at is not None and now - newest.resolved_told_at < policy.period:
            return Noted(newest)
        newest.resolved_told_at = now
        lasted = _lasted(now - newest.raised_at)
        body = f"It is over after {lasted}; it was seen {newest.count} time{'' if newest.count == 1 else 's'}."
        title = f"[{use_case}] resolved: {newest.title}"
        return Noted(newest, policy.posts(_severity(newest.severity), title, body, now))

    return alerts.note(use_case, cause, change)


def _over(row: AlertRow, policy: Policy, now: datetime) -> bool:
    """Whether the earlier trouble was another one: resolved, and nothing was seen of it for a period."""
    return row.resolved_at is not None and now - max(row.seen_at, row.resolved_at) >= policy.period


def _must_tell(row: AlertRow, notice: Notice, policy: Policy, now: datetime) -> bool:
    worse = _rank(notice.severity) > _rank(_severity(row.severity))
    told_over = row.resolved_told_at is not None and row.resolved_told_at >= row.told_at
    return worse or told_over or now - row.told_at >= policy.period


def _opened(notice: Notice, now: datetime) -> AlertRow:
    return AlertRow(
        notice.use_case,
        notice.cause,
        notice.severity,
        notice.title[:_TITLE],
        notice.body,
        raised_at=now,
        seen_at=now,
        told_at=now,
        resolved_at=None if notice.lasts else now,
    )


def _seen_again(row: AlertRow, notice: Notice, now: datetime) -> AlertRow:
    row.severity, row.title, row.body = notice.severity, notice.title[:_TITLE], notice.body
    row.seen_at, row.count = now, row.count + 1
    row.resolved_at = None if notice.lasts else now
    return row


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


def _severity(text: str) -> Severity:
    return next(severity for severity in SEVERITIES if severity == text)


def _lasted(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"
