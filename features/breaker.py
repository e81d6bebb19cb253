"""The circuit breaker before an online store: a store that fails is left alone until it answers again.

After `FAILURES` failed reads in a row no read is tried: each fails at once. A thread of the breaker's own then tries
the last one again every `RETRY_SECONDS`, on connections of its own, and lets reads through once it is answered; so no
request waits for a trial, and a store without requests heals too. How long one read may take is the store's business.
This module knows nothing of views, policies or HTTP.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from features.online_store import RowReader, Stored
from millrace.errors import FeatureError

FAILURES = 3
"""Failed reads in a row that stop further ones: a single slow answer is no outage."""
RETRY_SECONDS = 1.0
"""Between two trials of a store that failed."""
_logger = logging.getLogger(__name__)


class StoreDownError(FeatureError):
    """The online store did not answer in time, or is not asked because it has not for a while."""


class Breaker:
    """A store of packed rows that gives up early. Threads may share it."""

    def __init__(self, open_rows: Callable[[], RowReader], *, retry_seconds: float = RETRY_SECONDS) -> None:
        """`open_rows` opens the store: once to read from, and again for each trial."""
        self._open_rows, self._rows, self._retry = open_rows, open_rows(), retry_seconds
        self._failures, self._lock, self._closed = 0, threading.Lock(), threading.Event()
        self.is_open = False

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """The rows of these keys. Raises `StoreDownError` when the store fails, and at once while it is down."""
        if not keys:
            return []
        if self.is_open:
            raise StoreDownError("The online store does not answer.")
        try:
            found = self._rows.read(keys)
        except FeatureError as error:
            self._note(error, keys)
            raise StoreDownError(error.what, looked=error.looked, todo=error.todo) from error
        self._failures = 0
        return found

    def close(self) -> None:
        """Release the store and end the trials."""
        self._closed.set()
        self._rows.close()

    def _note(self, error: FeatureError, keys: Sequence[bytes]) -> None:
        with self._lock:
            self._failures += 1
            if self.is_open or self._failures < FAILURES:
                return
            self.is_open = True
        _logger.error("the online store is not asked until it answers again: %s", error)
        threading.Thread(target=self._mend, args=(keys,), name="online store trials", daemon=True).start()

    def _mend(self, keys: Sequence[bytes]) -> None:
        """Try until the store answers, then let reads through."""
        while not self._closed.wait(self._retry):
            if self._answers(keys):
                self._failures, self.is_open = 0, False
                _logger.warning("the online store answers again")
                return

    def _answers(self, keys: Sequence[bytes]) -> bool:
        try:
            rows = self._open_rows()
            try:
                rows.read(keys)
            finally:
                rows.close()
        except Exception as error:  # whatever a store can raise: the trials must outlive it
            _logger.info("the online store still does not answer: %s", error)
            return False
        return True
