"""`millrace alerts`: what it shows and sends, and with which exit code."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime

import pytest

from millrace.cli import main
from millrace.db import Database
from millrace.settings import Settings, read_settings
from monitoring.alerts import Notice, Policy, raise_alert

SECRET = "s3cr3t"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main([*arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Settings:
    """A platform whose one destination refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setenv("MILLRACE_ALERTS", f'{{"warning": ["json://u:{SECRET}@127.0.0.1:{port}/{SECRET}"]}}')
    return read_settings()


@pytest.fixture
def raised(home: Settings) -> Settings:
    db = Database.open(home)
    notice = Notice("taxi", "ingest failed", "warning", "The ingest failed", "No file.")
    raise_alert(db.alerts, Policy.of(home), notice, now=datetime.now(UTC))
    db.close()
    return home


def test_alerts_are_listed_with_what_is_unsent(raised: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "alerts", "list", "--json")[1])
    assert found["open"] == 1
    (line,) = found["alerts"]
    assert (line["title"], line["count"], line["unsent"]) == ("The ingest failed", 1, 1)
    assert json.loads(run(capsys, "alerts", "list", "bus", "--json")[1])["alerts"] == []


def test_a_test_that_fails_exits_with_1_and_tells_no_secret(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "alerts", "test", "--json")
    assert code == 1
    assert json.loads(out)["destinations"] == [
        {"destination": "warning 1 (json)", "taken": False, "error": "It cannot be reached, or refused the message."}
    ]
    assert SECRET not in out + err


def test_sending_what_waits_tells_what_became_of_it(raised: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "alerts", "send", "--json")[1])
    assert (found["sent"], found["waiting"], found["failed"][0]["destination"]) == (0, 1, "warning 1 (json)")


def test_without_destinations_a_test_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    code, _, err = run(capsys, "alerts", "test")
    assert code == 2
    assert "MILLRACE_ALERTS" in err
