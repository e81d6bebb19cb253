"""Rows of audit reach the database from a thread of their own, or the log when it is down or behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest

from millrace.db import AuditRow, Database
from serving.audit import MAX_WAITING, Audit

NOW = datetime(2013, 4, 1, tzinfo=UTC)


def row(number: int = 0) -> AuditRow:
    return AuditRow(NOW, "id", "ops", "POST", f"/v1/late/reload/{number}", "192.0.2.1", 200, "request")


def test_rows_are_written_by_the_end(db: Database) -> None:
    audit = Audit(db)
    for number in range(20):
        audit.note(row(number))
    audit.close()
    assert len(db.audit(100)) == 20


class Stuck:
    """A database that answers when it is let go, and then fails."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def add_audit(self, rows: Sequence[AuditRow]) -> None:
        self.go.wait(30)
        raise OSError("the database is down")


def test_a_database_that_is_down_leaves_a_line_for_each_row(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    stuck.go.set()
    audit = Audit(cast(Database, stuck))
    audit.note(row())
    audit.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "the database is down" in line
    assert "key ops (id) POST /v1/late/reload/0 from 192.0.2.1" in line


def test_a_database_that_hangs_never_makes_a_call_wait(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    audit = Audit(cast(Database, stuck))
    for number in range(MAX_WAITING + 5):
        audit.note(row(number))
    assert [record.getMessage() for record in caplog.records if "too many wait" in record.getMessage()][4:] != []
    stuck.go.set()
    audit.close()
    assert len(caplog.records) == MAX_WAITING + 5


def test_a_row_that_a_real_database_refuses_is_logged(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    audit, broken = Audit(db), row()
    broken.at = datetime(2013, 4, 1)  # noqa: DTZ001  # the point: it has no zone
    audit.note(broken)
    audit.close()
    assert "audit, not in the database" in caplog.text
