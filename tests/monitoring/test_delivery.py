"""The outbox: what arrives at a real HTTP server, and what becomes of it when that hangs, refuses or is not there."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from millrace.db import Database
from millrace.settings import Settings
from monitoring.alerts import Notice, Policy, destinations, raise_alert
from monitoring.delivery import Delivered, deliver, send_test

NOW = datetime.now(UTC)
SECRET = "s3cr3t-t0k3n"


class Webhook:
    """A server on loopback that answers with `status`, or not at all until the end when it is 0."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status, self.end = 200, threading.Event()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not webhook.status:
                    webhook.end.wait(30)
                    return
                webhook.got.append(json.loads(body))
                self.send_response(webhook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.server.server_address[1]}/{SECRET}"

    def stop(self) -> None:
        self.end.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    started = Webhook()
    yield started
    started.stop()


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    opened = Database.open(settings)
    yield opened
    opened.close()


def configured(settings: Settings, *urls: str, seconds: float = 5.0) -> Settings:
    return settings.model_copy(update={"alerts": {"warning": list(urls)}, "alert_seconds": seconds})


def told(db: Database, settings: Settings, cause: str = "x", *, now: datetime = NOW) -> None:
    notice = Notice("taxi", cause, "warning", f"{cause} failed", "No file.")
    raise_alert(db.alerts, Policy.of(settings), notice, now=now)


def test_a_message_arrives_once(db: Database, settings: Settings, webhook: Webhook) -> None:
    there = configured(settings, webhook.url)
    told(db, there)
    assert deliver(there, db, due=NOW) == Delivered(sent=1)
    assert deliver(there, db, due=NOW) == Delivered()
    assert [(post["title"], post["message"], post["type"]) for post in webhook.got] == [
        ("[taxi] warning: x failed", "No file.", "warning")
    ]


def test_messages_arrive_in_their_order(db: Database, settings: Settings, webhook: Webhook) -> None:
    there = configured(settings, webhook.url)
    for cause in "abc":
        told(db, there, cause)
    deliver(there, db, due=NOW)
    assert [post["title"][-8:] for post in webhook.got] == ["a failed", "b failed", "c failed"]


@pytest.mark.parametrize(("status", "why"), [(503, "It answered 503."), (0, "No answer within the time limit.")])
def test_what_a_webhook_did_not_take_waits_and_goes_with_a_later_pass(
    db: Database, settings: Settings, webhook: Webhook, status: int, why: str
) -> None:
    there, webhook.status = configured(settings, webhook.url, seconds=1.0), status
    told(db, there)
    failed = deliver(there, db, due=NOW)
    assert (failed.waiting, dict(failed.failed)) == (1, {"warning 1 (json)": why})
    (post,) = db.alerts.waiting()
    assert (post.attempts, post.error) == (1, why)
    assert not db.alerts.waiting(due=datetime.now(UTC))  # not before its pause is over
    webhook.status = 200
    webhook.got.clear()
    assert deliver(there, db, due=post.next_at).sent == 1
    assert len(webhook.got) == 1


def test_a_destination_that_is_not_there_holds_up_no_other(db: Database, settings: Settings, webhook: Webhook) -> None:
    away = Webhook()
    away.stop()
    there = configured(settings, away.url, webhook.url)
    told(db, there)
    done = deliver(there, db, due=NOW)
    assert (done.sent, done.waiting, len(webhook.got)) == (1, 1, 1)


def test_each_failure_waits_twice_as_long_up_to_an_hour(db: Database, settings: Settings, webhook: Webhook) -> None:
    there, webhook.status = configured(settings, webhook.url), 500
    told(db, there)
    pauses = []
    for _ in range(8):
        deliver(there, db, due=None)
        pauses.append(round((db.alerts.waiting()[0].next_at - datetime.now(UTC)).total_seconds() / 60))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_after_three_days_it_is_dropped(db: Database, settings: Settings, webhook: Webhook) -> None:
    there, webhook.status = configured(settings, webhook.url), 500
    told(db, there, now=NOW - timedelta(days=4))
    assert deliver(there, db, due=NOW).dropped == 1
    assert not db.alerts.waiting()


def test_what_was_meant_for_a_url_that_is_gone_is_dropped(db: Database, settings: Settings, webhook: Webhook) -> None:
    told(db, configured(settings, webhook.url))
    assert deliver(settings, db, due=NOW) == Delivered(dropped=1)


def test_while_another_process_sends_nothing_is_sent(db: Database, settings: Settings, webhook: Webhook) -> None:
    there = configured(settings, webhook.url)
    told(db, there)
    with db.lease("alerts"):
        assert deliver(there, db, due=NOW) == Delivered(waiting=1)
    assert not webhook.got


def test_a_test_message_says_of_each_destination_what_is_wrong(settings: Settings, webhook: Webhook) -> None:
    there = configured(settings, webhook.url, "nonsense://host")
    found = send_test(there, destinations(there.alerts))
    assert found == {"warning 1 (json)": "", "warning 2 (nonsense)": "Apprise does not know such a URL."}


@pytest.mark.parametrize("status", [200, 500, 0])
def test_nothing_of_a_url_is_logged_printed_or_stored(
    db: Database,
    settings: Settings,
    webhook: Webhook,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    there, webhook.status = configured(settings, webhook.url, f"nonsense://{SECRET}", seconds=1.0), status
    told(db, there)
    with caplog.at_level(logging.DEBUG):
        done = deliver(there, db, due=NOW)
    out, err = capfd.readouterr()
    stored = [str(vars(post)) for post in db.alerts.waiting()]
    assert SECRET not in f"{caplog.text}{out}{err}{stored}{done}{there!r}"
