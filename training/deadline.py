"""A time limit on code of others, in any thread: when it is up, that code is left by an exception.

In the main thread a timer's signal raises; in any other the interpreter is asked to raise there. Both take effect
between two steps of Python: a hang inside one call into C is ended by nothing but its process's end, which is what
`millrace train --launch subprocess` is for. It knows nothing of what it limits.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

_SOON_S = 1e-3


class DeadlineError(Exception):
    """The time was up before the body had ended."""


class _Up(BaseException):
    """Raised inside the body. Not an `Exception`: code that goes on after any error must not go on after this one."""


@contextmanager
def deadline(limit: timedelta) -> Iterator[None]:
    """Raise `DeadlineError` when the body takes longer than `limit`; its own `finally` blocks run first.

    Other timers and signal handlers are as before afterwards. Zero and less is up at once.
    """
    in_main = threading.current_thread() is threading.main_thread()
    limited = _by_signal(limit) if in_main else _by_thread(limit)
    try:
        with limited:
            yield
    except _Up as up:
        raise DeadlineError(f"It took longer than {limit.total_seconds():g} s.") from up


@contextmanager
def _by_signal(limit: timedelta) -> Iterator[None]:
    """SIGALRM in the main thread. A timer that was running goes on afterwards with what is left of it."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _Up

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, max(limit.total_seconds(), _SOON_S))
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # also when it strikes just here
            signal.signal(signal.SIGALRM, handler)
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), _SOON_S), interval)


@contextmanager
def _by_thread(limit: timedelta) -> Iterator[None]:
    """An asynchronous exception in a thread that can have no signals."""
    thread, lock, over = threading.get_ident(), threading.Lock(), threading.Event()

    def ring() -> None:
        with lock:
            if not over.is_set():
                _raise_in(thread, _Up)

    timer = threading.Timer(max(limit.total_seconds(), 0), ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        timer.cancel()
        _raise_in(thread, None)  # what was asked for while the body ended must not reach what comes after it


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
