"""The status page: what it says with everything, with nothing, and to whom."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from millrace.db import Database, WindowRow
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.access import COOKIE
from serving.app import create_app
from serving.keys import SESSION, KeyRing, api_key
from serving.web.page import Pages
from serving.web.status import LimitLine, View, gather, metric_text

from ..conftest import NOW, Promote, client_of

HTML = {"Accept": "text/html,application/xhtml+xml"}
HOUR = timedelta(hours=1)


def window(start: int, **metrics: float) -> WindowRow:
    begin = NOW + timedelta(days=7 * start)
    return WindowRow(
        "late", begin, begin + timedelta(days=7), 1, 6_400, 6_200, "retrain", "Log loss rose by 0.03.", NOW, metrics,
        ["delay"],
    )  # fmt: skip


@pytest.fixture
def browser(stranger: httpx.Client, settings: Settings) -> httpx.Client:
    """A client that has signed in with the form."""
    stranger.headers.update(HTML)
    answer = stranger.post("/sign-in", data={"key": api_key(settings)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return stranger


def test_a_browser_without_a_session_gets_the_sign_in_page_with_its_401(stranger: httpx.Client) -> None:
    answer = stranger.get("/", headers=HTML)
    assert answer.status_code == 401
    assert '<form class="card" method="post" action="/sign-in">' in answer.text
    assert "script" not in answer.text


def test_a_wrong_key_gets_the_form_again_and_no_cookie(stranger: httpx.Client) -> None:
    for key in ("wrong", "", "<script>", "é"):
        answer = stranger.post("/sign-in", data={"key": key}, headers=HTML)
        assert answer.status_code == 401
        assert "That is not the key." in answer.text
        assert COOKIE not in answer.cookies
        assert "<script>" not in answer.text


def test_a_huge_form_is_refused(stranger: httpx.Client) -> None:
    assert stranger.post("/sign-in", content=b"key=" + b"x" * 100_000, headers=HTML).status_code == 401


def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(stranger: httpx.Client, settings: Settings) -> None:
    cookie = stranger.post("/sign-in", data={"key": api_key(settings)}, headers=HTML).headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
    assert api_key(settings).lower() not in cookie


def test_an_old_or_forged_session_signs_in_again(stranger: httpx.Client, settings: Settings) -> None:
    ring = KeyRing(api_key(settings))
    other = KeyRing("another key, also long")
    for session in (ring.session(ring.own, NOW - SESSION - HOUR), other.session(other.own, NOW), "x.y.z"):
        assert stranger.get("/", headers=HTML | {"Cookie": f"{COOKIE}={session}"}).status_code == 401


def test_signing_out_ends_the_session(browser: httpx.Client) -> None:
    assert browser.get("/").status_code == 200
    browser.post("/sign-out")
    assert browser.get("/").status_code == 401


def test_static_files_need_a_session_and_no_other_file_is_there(browser: httpx.Client) -> None:
    for name, kind in (("style.css", "text/css"), ("refresh.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        answer = browser.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
    for name in ("page.py", "..%2fpage.py", "nothing.css"):
        assert browser.get(f"/static/{name}").status_code == 404


def test_an_empty_platform_says_what_to_type_next(settings: Settings, use_case: UseCase) -> None:
    app = create_app(settings, [use_case], clock=lambda: NOW)
    with client_of(app, settings) as client:
        text = client.get("/").text
    for command in ("ingest", "materialize", "train"):
        assert f"<code>millrace {command} late</code>" in text
    assert "Will it be late?" in text


def test_the_page_shows_what_the_database_knows(browser: httpx.Client, db: Database) -> None:
    db.add_window(window(0, roc_auc_live=0.75, roc_auc_static=0.74, log_loss_live=0.45, log_loss_static=0.47))
    db.add_window(window(1))
    run = db.start_run("late", "ingest", NOW)
    db.end_run(run, "done", {"rows": 1_234, "sources": {"trips": 1_234}})
    run = db.start_run("late", "materialize", NOW)
    newest = (NOW - 3 * HOUR).isoformat()
    db.end_run(run, "done", {"views": {"carrier_view": {"entities": 16, "newest": newest}}})
    text = browser.get("/").text
    champion = ("v1", "serving", "It passed its budget.")
    windows = ("0.7500", "0.4700", "Log loss rose by 0.03.", "Drifted: delay", "0.0200", '<svg class="chart"')
    for shown in (*champion, *windows, "1,234", "carrier_view", "3 h"):
        assert shown in text


def test_what_other_stages_wrote_is_escaped(browser: httpx.Client, db: Database) -> None:
    db.add_decision("late", as_of=NOW, action="refused", reason="<script>alert(1)</script>")
    text = browser.get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_an_unknown_use_case_is_404(browser: httpx.Client) -> None:
    assert browser.get("/?use_case=early").status_code == 404
    assert browser.get("/?use_case=" + "x" * 100).status_code == 422


def test_a_failed_ingest_shows_its_error(db: Database, promote: Promote) -> None:
    run = db.start_run("late", "ingest", NOW)
    db.end_run(run, "failed", {"error": "SourceError: trips.csv is missing"})
    status = gather(db, "late", "?")
    assert status.ingest is not None
    assert (status.ingest.state, status.ingest.rows) == ("failed", None)
    assert "trips.csv" in status.ingest.error


def test_a_view_keeps_its_newest_value_when_nothing_was_new(db: Database) -> None:
    for hours, newest in ((0, (NOW - HOUR).isoformat()), (5, None)):
        run = db.start_run("late", "materialize", NOW + hours * HOUR)
        db.end_run(run, "done", {"views": {"carrier_view": {"entities": 0 if newest is None else 7, "newest": newest}}})
    assert gather(db, "late", "?").views == (View("carrier_view", 0, NOW - HOUR, "6 h"),)


def test_without_an_online_store_the_page_says_what_comes_with_the_request(db: Database) -> None:
    assert gather(db, "late", "?", ("image",)).given == ("image",)
    page = Pages().render(
        "status.html", status=gather(db, "late", "?", ("image",)), names=["late"], serving=None, problem="", now=NOW
    )
    assert "Every input comes with the request (image): there is no online store." in page
    assert "millrace materialize" not in page


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("p99_ms_100", 1.25, "1.25 ms"), ("joules_per_1000", 0.5, "0.5 J"), ("accuracy", 0.98, "0.9800")],
)
def test_a_figure_is_written_with_its_unit(metric: str, value: float, text: str) -> None:
    assert metric_text(metric, value) == text


def test_the_verdict_shows_each_limit_with_its_measurement(db: Database, promote: Promote) -> None:
    limits = [
        {"metric": "p99_ms", "sense": "<=", "bound": 10.0, "measured": 12.5, "margin": -2.5, "passed": False},
        {"metric": "roc_auc", "sense": ">=", "bound": 0.62, "measured": None, "margin": None, "passed": False},
    ]
    promote(3, verdict={"passed": False, "reasons": ["Too slow."], "limits": limits})
    champion = gather(db, "late", "?").champion
    assert champion is not None
    slow, unmeasured = champion.limits
    assert slow == LimitLine("Latency p99", "≤ 10 ms", "12.5 ms", passed=False, used=125)
    assert (unmeasured.measured, unmeasured.used) == ("–", None)
    assert (champion.passed, champion.reasons, champion.reason) == (False, ("Too slow.",), "It passed its budget.")


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("p99_ms", 0.0843, "0.0843 ms"), ("memory_mb", 1234.6, "1,235 MB"), ("roc_auc", 0.5, "0.5000"),
     ("roc_auc", None, "–"), ("roc_auc", float("nan"), "–"), ("roc_auc", "bad", "–")],
)  # fmt: skip
def test_a_measurement_is_written_with_its_unit(metric: str, value: object, text: str) -> None:
    assert metric_text(metric, value) == text
