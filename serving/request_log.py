"""One log line a request at most: failures and slow requests always, all of them at level INFO, few under load.

A line tells the request's id, route, status and time and, of a prediction, where the time went, stage by stage. What
would be more than `per_second` lines is counted and told by the next line. Nothing that a client sent is written, save
its request id, which is checked. This module knows nothing of models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from millrace.errors import MillraceError

_logger = logging.getLogger(__name__)


class RequestLog:
    """Writes the lines of one server process; used from its event loop.

    `slow_ms` are the milliseconds from which on a request is slow, `per_second` is the most lines of a second.
    """

    def __init__(self, *, slow_ms: float, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slow, self._most, self._clock = slow_ms / 1_000, per_second, clock
        self._every_request = _logger.isEnabledFor(logging.INFO)
        self._second, self._written, self._suppressed = 0, 0, 0

    def note(self, scope: Scope, route: str, status: int) -> None:
        """The request of this scope has been answered.

        It has `arrived` (`time.perf_counter`) and may have `stages`, which tells milliseconds by name when it is
        called, and the `error` that it ended in.
        """
        seconds = time.perf_counter() - scope["arrived"]
        if seconds < self._slow and status < 500 and not self._every_request:
            return
        if not self._has_room():
            self._suppressed += 1
            return
        error, suppressed, self._suppressed = scope.get("error"), self._suppressed, 0
        stages: dict[str, float] = scope["stages"]() if "stages" in scope else {}
        told = {
            "request_id": scope["request_id"], "method": scope["method"], "route": route, "status": status,
            "ms": round(1e3 * seconds, 3), "suppressed": suppressed,
        }  # fmt: skip
        extra: dict[str, Any] = told | {f"{name}_ms": round(ms, 3) for name, ms in stages.items()}
        foreseen = error is None or isinstance(error, MillraceError)
        level = (
            logging.INFO if status < 500 and seconds < self._slow else logging.WARNING if foreseen else logging.ERROR
        )
        _logger.log(level, _words(told, stages, error), exc_info=None if foreseen else error, extra=extra)

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        return self._written <= self._most


def _words(told: dict[str, Any], stages: dict[str, float], error: BaseException | None) -> str:
    text = f"request {told['request_id']}: {told['method']} {told['route']} {told['status']} in {told['ms']:.1f} ms"
    if stages:
        text += f" ({', '.join(f'{name} {ms:.1f}' for name, ms in stages.items())})"
    if told["suppressed"]:
        text += f"; {told['suppressed']} lines before it left out"
    return f"{text}: {error}" if isinstance(error, MillraceError) else text
