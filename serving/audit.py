"""Rows of what callers changed, written to the platform's database by a thread of their own.

`note` never waits: it hands a row over. When the database does not answer, or more rows wait than it can take, a row
becomes a line of the log. This module knows nothing of what deserves a row.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from millrace.db import AuditRow, Database
from millrace.errors import first_line

MAX_WAITING = 1_000
"""Most rows that wait for the database."""
_logger = logging.getLogger(__name__)


class Audit:
    """Takes rows from the event loop and writes them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._room = BoundedSemaphore(MAX_WAITING)

    def note(self, row: AuditRow) -> None:
        """Write this row soon."""
        if self._room.acquire(blocking=False):
            self._thread.submit(self._write, row)
        else:
            _log(row, "too many wait")

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._thread.shutdown()

    def _write(self, row: AuditRow) -> None:
        try:
            self._db.add_audit([row])
        except Exception as error:  # whatever a database can raise: the call is done, and must leave a trace
            _log(row, first_line(error))
        finally:
            self._room.release()


def _log(row: AuditRow, why: str) -> None:
    _logger.warning(
        "audit, not in the database (%s): key %s (%s) %s %s from %s at %s, status %s, request %s",
        why, row.key_name, row.key_id, row.method, row.route, row.remote, row.at.isoformat(), row.status,
        row.request_id,
    )  # fmt: skip
