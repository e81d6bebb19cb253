"""Work that may hang, in threads that nobody has to wait for: a limit on each, and on how many may be left hanging.

A thread cannot be ended from outside. So what passes its limit is left behind: its result is dropped whenever it comes,
it does not keep the process from ending (an executor's threads would), and as long as `MOST` of them hang no further
work is begun. This module knows nothing of models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from millrace.errors import MillraceError

Result = TypeVar("Result")

MOST = 2
"""Left behind at most: each may hold the memory of a model."""


def start(act: Callable[[], Result], name: str) -> Future[Result]:
    """Run `act` in a thread of its own, named `name`, that does not outlive the process's main thread."""
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()  # whoever waits for it may be cancelled, the work cannot

    def run() -> None:
        try:
            done.set_result(act())
        except BaseException as error:  # whatever it was, it is for whoever asked
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done


class Aside:
    """One kind of work, asked for from one thread at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._hanging: list[Future[Any]] = []

    def run(self, act: Callable[[], Result], *, seconds: float) -> Result:
        """What `act` gives or raises; `MillraceError` when that takes longer, or too many before it still hang."""
        self._hanging = [left for left in self._hanging if not left.done()]
        if len(self._hanging) >= MOST:
            raise MillraceError(f"{len(self._hanging)} earlier attempts still hang.", todo="Start the server anew.")
        running = start(act, self._name)
        try:
            return running.result(seconds)
        except TimeoutError:
            if running.done():  # it was raised by the work itself
                raise
            self._hanging.append(running)
            raise MillraceError(f"It took longer than {seconds:g} seconds.") from None
