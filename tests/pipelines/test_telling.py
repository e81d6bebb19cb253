"""Who is told of what the flows did, and that telling is never the flow's trouble."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from millrace.errors import BusyError, SourceError
from millrace.settings import Settings
from monitoring.decide import Decision, Severity
from pipelines import telling
from pipelines.flows import ingest_flow, train_flow
from pipelines.telling import told
from pipelines.workspace import Workspace, open_workspace

AS_OF = datetime(2024, 1, 20, tzinfo=UTC)


@pytest.fixture
def empty(environment: Settings) -> Iterator[Workspace]:
    with open_workspace("taxi") as ws:
        yield ws


@pytest.fixture
def hanging() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"json://127.0.0.1:{listener.getsockname()[1]}/hook"


def alerts(ws: Workspace) -> list[tuple[str, str, bool]]:
    """Severity, title, and whether it is open."""
    return [(row.severity, row.title, row.resolved_at is None) for row in ws.db.alerts.newest()]


def test_a_flow_that_fails_is_told_and_when_it_works_again_too(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise SourceError("The file is not there.", todo="Bring it back.")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.flows.ingest", fails)
        with pytest.raises(SourceError):
            ingest_flow.fn("taxi", AS_OF)
    assert alerts(empty) == [("warning", "The ingest failed", True)]
    assert empty.db.alerts.newest()[0].body == "The file is not there. Bring it back."
    ingest_flow.fn("taxi", AS_OF)
    assert alerts(empty) == [("warning", "The ingest failed", False)]


def test_another_process_at_it_is_no_failure(empty: Workspace) -> None:
    with pytest.raises(BusyError), told(empty, "train"):
        raise BusyError("Another process is at it.")
    assert alerts(empty) == []


@pytest.mark.timeout(60)
def test_a_webhook_that_hangs_neither_fails_nor_blocks_a_flow(
    empty: Workspace, hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ALERTS", f'{{"warning": ["{hanging}"]}}')
    monkeypatch.setenv("MILLRACE_ALERT_SECONDS", "0.5")
    with open_workspace("taxi") as ws:
        with pytest.raises(SourceError), told(ws, "ingest"):
            raise SourceError("The file is not there.")
        with told(ws, "ingest"):
            pass
        waiting = ws.db.alerts.waiting()
    assert [post.title for post in waiting] == [
        "[taxi] warning: The ingest failed",
        "[taxi] resolved: The ingest failed",
    ]
    assert waiting[0].error == "No answer within the time limit."


def test_an_alert_that_cannot_be_noted_does_not_fail_a_flow(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(telling, "raise_alert", fails)
    with pytest.raises(SourceError), told(empty, "ingest"):
        raise SourceError("The file is not there.")
    assert "could not be dealt with: OSError: disk full" in caplog.text


def decided(action: Any, *, problems: tuple[str, ...] = (), rows: int = 100, severity: Severity = "info") -> Decision:
    return Decision(action, "Because.", ("Because.",), {"data_problems": problems, "rows": rows}, severity)


@pytest.mark.parametrize(
    ("decision", "cause", "severity"),
    [
        (decided("alert", problems=("nulls",)), "wrong data", "warning"),
        (decided("alert", rows=0), "wrong data", "warning"),
        (decided("hold_back", problems=("nulls",)), "wrong data", "warning"),
        (decided("alert", severity="warning"), "alarm", "warning"),
        (decided("page"), "retraining does not help", "critical"),
    ],
)
def test_a_decision_that_somebody_has_to_see_is_told(decision: Decision, cause: str, severity: str) -> None:
    told_of = [notice for notice in telling._notices("taxi", decision).values() if notice]
    assert [(notice.cause, notice.severity) for notice in told_of] == [(cause, severity)]


@pytest.mark.parametrize("action", ["nothing", "retrain", "hold_back"])
def test_a_decision_that_is_nobodys_trouble_is_not_told_and_ends_what_was(action: str) -> None:
    notices = telling._notices("taxi", decided(action))
    assert not any(notices.values())
    assert {"wrong data", "alarm"} <= set(notices)


def test_a_page_stays_open_until_it_retrains_again() -> None:
    assert "retraining does not help" not in telling._notices("taxi", decided("nothing"))
    assert "retraining does not help" in telling._notices("taxi", decided("retrain"))


def test_a_training_tells_what_serves_now(empty: Workspace) -> None:
    ingest_flow.fn("taxi", AS_OF)
    done = train_flow.fn("taxi", AS_OF)
    did = "serves now" if done["promoted"] else "was refused"
    assert alerts(empty) == [("info", f"Version {done['version']} {did}", False)]
