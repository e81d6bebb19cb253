"""Where a training runs: in this process, in one of its own, or on a Prefect worker.

A process of its own is the only place where a fit that hangs inside C code can be ended: its whole group is killed at a
limit. This module starts and watches; what a training does is `pipelines.models`' business.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import FrameType
from typing import Any

from millrace.errors import MillraceError, TrainingError, error_from_dict
from millrace.loader import load_use_case
from millrace.settings import child_environment, read_settings
from millrace.usecase import UseCase
from training.options import TrainOptions

Outcome = dict[str, Any]
Tell = Callable[[str], None]

_REST = timedelta(minutes=15)
"""Reading, exporting, measuring and judging, in the default limit."""
_FITS = 3
"""Folds of a search: fits of a trial, in the default limit."""
_POLL_S, _GRACE_S = 0.05, 10.0
"""Between asking a training to end and killing it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training to run: the use case by its name or folder, the moment (UTC), and how."""

    use_case: str
    as_of: datetime
    options: TrainOptions


def here(job: Job, tell: Tell | None = None) -> Outcome:
    """Run it in this process, as a Prefect flow where a server is configured."""
    from pipelines.flows import run_flow, train_flow

    return run_flow(train_flow, use_case=job.use_case, as_of=job.as_of, options=job.options.to_dict(), progress=tell)


def in_subprocess(job: Job, tell: Tell | None = None, *, limit: timedelta | None = None) -> Outcome:
    """Run it in a process of its own, which is ended with all it started after `limit`.

    `tell` hears the child's lines. Raises the child's error as it was raised there, `TrainingError` at the limit.
    """
    settings = read_settings()
    limit = limit or default_limit(load_use_case(job.use_case, settings), job.options)
    command = [sys.executable, "-m", "millrace.cli", *arguments(job), "--launch", "here", "--lines", "--json"]
    outcome: Outcome = json.loads(run_limited(command, child_environment(settings), limit=limit, tell=tell))
    return outcome | {"as_of": job.as_of}


def run_limited(command: Sequence[str], environment: Mapping[str, str], *, limit: timedelta, tell: Tell | None) -> str:
    """What a command of ours writes to its standard output; its lines on standard error go to `tell`.

    It runs in a process group of its own, of which nothing is left when this returns. Raises the error that it ends
    with, `TrainingError` when it tells none or at the limit.
    """
    process = _start(command, environment)
    said = _Said(tell)
    with _ended(process), _at(limit, process) as expired:
        listener = threading.Thread(target=said.listen, args=(process.stderr,))
        listener.start()
        answer = process.stdout.read() if process.stdout else ""
        _has_ended(process, wait=True)
        _end(process)
        listener.join()
    code = process.wait()
    if expired.is_set():
        raise TrainingError(
            f"The training was ended after {limit.total_seconds():g} s, its limit; the champion is untouched.",
            looked=f"The last that it said was: {said.last or 'nothing'}.",
            todo="Give it longer (--limit), or candidates a shorter timeout.",
        )
    if code:
        raise said.error(code)
    return answer


def default_limit(use_case: UseCase, options: TrainOptions) -> timedelta:
    """The longest that a training may take when every fit takes as long as it may, and then some."""
    limit = _REST
    for candidate in use_case.all_candidates:
        trials = options.trials if candidate.search else 0
        searched = _FITS * trials * candidate.timeout
        limit += min(searched, options.timeout) if options.timeout else searched
        limit += candidate.timeout * (1 + len(getattr(candidate, "variants", ())))
    return limit


def arguments(job: Job) -> list[str]:
    """The command line of `millrace train` that runs this job."""
    options, hardware = job.options, job.options.hardware
    given = ["train", job.use_case, "--as-of", job.as_of.isoformat(), "--seed", str(options.seed)]
    given += ["--trials", str(options.trials), "--device", hardware.device, "--processes", str(hardware.processes)]
    if options.timeout is not None:
        given += ["--timeout", f"{options.timeout.total_seconds():g}s"]
    if options.resume:
        given += ["--resume"]
    if options.parent is not None:
        given += ["--from", str(options.parent)]
    if options.budget:
        given += ["--budget", ",".join(f"{name}={bound!r}" for name, bound in options.budget.items())]
    return given


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # our own interpreter; its command line checks the arguments
        list(command),
        env=dict(environment) | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class _Said:
    """What the child says on standard error: lines for people, and an error as JSON when it ends with one."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell, self._lines, self._error = tell, deque[str](maxlen=20), dict[str, str]()

    def listen(self, stream: Any) -> None:
        """Until the stream's end."""
        for line in stream:
            told = line.rstrip()
            if told.startswith('{"error":'):
                with suppress(ValueError):
                    self._error = json.loads(told)
                    continue
            self._lines.append(told)
            if self._tell is not None:
                self._tell(told)

    @property
    def last(self) -> str:
        """The last line for people."""
        return self._lines[-1] if self._lines else ""

    def error(self, code: int) -> MillraceError:
        """The child's own error; one that says how it ended when it told none."""
        told = error_from_dict(self._error)
        if told is not None:
            return told
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why = " It may have taken more memory than there is." if code == -signal.SIGKILL else ""
        return TrainingError(
            f"The training's process {how}.{why}",
            looked=f"The last that it said was: {self.last or 'nothing'}.",
            todo="Run it here to see all of it: --launch here; the champion is untouched.",
        )


@contextmanager
def _at(limit: timedelta, process: subprocess.Popen[str]) -> Iterator[threading.Event]:
    """End the process's group at the limit; the event says whether that was done."""
    expired = threading.Event()

    def end() -> None:
        expired.set()
        _end(process)

    timer = threading.Timer(limit.total_seconds(), end)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """However the body ends, also by SIGTERM or Ctrl-C, nothing of the process's group is left."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        with process:
            try:
                yield
            finally:
                _end(process)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the group to end, as Ctrl-C does, so that it records how it ended; then kill what is left of it.

    The group's number is ours as long as its first process has not been waited for; `wait` comes after this.
    """
    if process.returncode is not None:
        return
    until = time.monotonic() + _GRACE_S
    if not _has_ended(process):
        _signal_group(process, signal.SIGINT)
    while not _has_ended(process) and time.monotonic() < until:
        time.sleep(_POLL_S)
    if process.returncode is None:
        _signal_group(process, signal.SIGKILL)


def _has_ended(process: subprocess.Popen[str], *, wait: bool = False) -> bool:
    """Whether the group's first process has ended, which leaves it to be waited for."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)) is not None
    except ChildProcessError:  # another thread has just waited for it
        return True


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # every process of it has ended
        os.killpg(process.pid, number)
