"""The outbox is emptied: each waiting message goes to its destination through Apprise, within a time limit.

A destination that is down, or does not answer within the limit, keeps its messages waiting, each with a longer pause,
for at most three days; the others get theirs. A message may arrive twice (its answer came too late to be seen), but is
never lost. URLs hold secrets: neither they nor what Apprise logs about them reach a log, the database or an error.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from millrace.db import Database, PostRow
from millrace.errors import BusyError
from millrace.settings import Settings
from monitoring.alerts import Destination, destinations

_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_PATIENCE = timedelta(days=3)
"""How old a message gets before it is dropped."""
_STATUS = re.compile(r"error[=: ]+([1-5]\d\d)\b")
_TALKERS = ("apprise", "urllib3.connectionpool")
_LATE = "No answer within the time limit."


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of the messages that were due: `failed` names the destinations that did not take theirs, and why."""

    sent: int = 0
    waiting: int = 0
    dropped: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)


def deliver(settings: Settings, db: Database, *, due: datetime | None, seconds: float | None = None) -> Delivered:
    """Send what is due by `due` (None: all that waits); another process that is at it already is left to it.

    Returns after `seconds` (default: the setting) at the latest, whatever the destinations do.
    """
    if not db.alerts.waiting(due):
        return Delivered()
    try:
        with db.lease("alerts"):
            return _deliver(settings, db, db.alerts.waiting(due), seconds or settings.alert_seconds)
    except BusyError:
        return Delivered(waiting=len(db.alerts.waiting(due)))


def send_test(settings: Settings, chosen: Sequence[Destination]) -> dict[str, str]:
    """Send each destination a message now; returns what is wrong by its name, empty where nothing is."""
    now = datetime.now(UTC)
    body = "This is a test of the alerts; nothing is wrong."
    posts = [PostRow(to.id, to.severity, "[millrace] test", body, now, now) for to in chosen]
    sendings = [_Sending(to, [post]) for to, post in zip(chosen, posts, strict=True)]
    _send_all(sendings, settings.alert_seconds)
    return {sending.to.name: sending.outcomes()[0] for sending in sendings}


def _deliver(settings: Settings, db: Database, posts: Sequence[PostRow], seconds: float) -> Delivered:
    known = {destination.id: destination for destination in destinations(settings.alerts)}
    sendings = [
        _Sending(to, [post for post in posts if post.destination == key])
        for key, to in known.items()
        if any(post.destination == key for post in posts)
    ]
    _send_all(sendings, seconds)
    now, states = datetime.now(UTC), []
    for post in posts:
        if post.destination not in known:
            db.alerts.change_post(post.id, state="dropped", ended_at=now, error="Its URL is no longer in the settings.")
            states.append("dropped")
    for sending in sendings:
        for post, error in zip(sending.posts, sending.outcomes(), strict=True):
            states.append(_settle(db, post, error, now))
    failed = {sending.to.name: error for sending in sendings if (error := sending.outcomes()[-1])}
    return Delivered(states.count("sent"), states.count("waiting"), states.count("dropped"), failed)


def _settle(db: Database, post: PostRow, error: str, now: datetime) -> str:
    """Record what became of a message; returns its state."""
    if not error:
        db.alerts.change_post(post.id, state="sent", attempts=post.attempts + 1, ended_at=now, error="")
        return "sent"
    attempts = post.attempts + 1
    if now - post.created_at > _PATIENCE:
        db.alerts.change_post(post.id, state="dropped", attempts=attempts, ended_at=now, error=error)
        return "dropped"
    pause = min(_PAUSE * 2 ** min(post.attempts, 10), _LONGEST_PAUSE)
    db.alerts.change_post(post.id, attempts=attempts, next_at=now + pause, error=error)
    return "waiting"


class _Sending:
    """One destination's messages, in their order, up to the first that it does not take; in a thread of its own."""

    def __init__(self, to: Destination, posts: Sequence[PostRow]) -> None:
        self.to, self.posts = to, posts
        self._errors: list[str] = []
        self._final: list[str] | None = None
        self.thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def outcomes(self) -> list[str]:
        """What is wrong with each message, empty where it was taken; what comes later is not seen any more."""
        if self._final is None:
            found = list(self._errors)
            rest = found[-1] if found and found[-1] else _LATE
            self._final = found + [rest] * (len(self.posts) - len(found))
        return self._final

    def _run(self) -> None:
        for post in self.posts:
            self._errors.append(_send(self.to, post))
            if self._errors[-1]:
                return


def _send_all(sendings: Sequence[_Sending], seconds: float) -> None:
    """Run them side by side; the threads of those that are late are left behind and hold nothing up."""
    deadline = time.monotonic() + seconds
    for sending in sendings:
        sending.thread.start()
    for sending in sendings:
        sending.thread.join(max(0.0, deadline - time.monotonic()))


def _send(to: Destination, post: PostRow) -> str:
    """Send it; what is wrong in words without any of the URL, empty when nothing is."""
    import apprise

    heard = _Heard()
    try:
        with heard:
            target = apprise.Apprise.instantiate(to.url, suppress_exceptions=True)
            if not isinstance(target, apprise.NotifyBase):
                return "Apprise does not know such a URL."
            kind = {"critical": apprise.NotifyType.FAILURE, "warning": apprise.NotifyType.WARNING}.get(post.severity)
            taken = target.notify(body=post.body, title=post.title, notify_type=kind or apprise.NotifyType.INFO)
    except Exception as error:  # a plugin's bug is a destination that is down; its text may hold the URL
        return f"Apprise failed with {type(error).__name__}."
    if taken:
        return ""
    return f"It answered {heard.status}." if heard.status else "It cannot be reached, or refused the message."


class _Heard(logging.Filter):
    """Hears what Apprise and its HTTP client log on this thread and keeps an HTTP status of it; nobody else hears any
    of it, as it holds parts of a URL."""

    def __init__(self) -> None:
        super().__init__()
        self.status, self._thread = "", threading.get_ident()

    def __enter__(self) -> _Heard:
        for name in _TALKERS:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in _TALKERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the status that a plugin tells of; let pass what other threads log."""
        if record.thread != self._thread:
            return True
        found = _STATUS.search(record.getMessage()) if record.name == "apprise" else None
        self.status = found[1] if found else self.status
        return False
