"""Several workers as one server: a parent process that starts them, keeps them alive and ends with them.

Each worker is a fresh interpreter (`serving.worker`), not a fork: numpy, polars and ONNX Runtime start threads when
they are imported, and a fork of a process with threads may inherit a lock that nobody will ever release. The parent
imports none of them and serves nothing itself. A worker that sees it gone drains and ends. This module knows nothing of
models or HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from millrace.errors import MillraceError
from millrace.settings import Settings, child_environment
from serving.listening import Announce, announce, announcement, reserve
from serving.shipping import keep_shipping

STEADY_SECONDS = 30.0
"""A worker that has served this long before it died is not in a crash loop."""
DEATHS = 5
"""A worker that dies so often without having been steady is given up, and the server with it."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds before a worker is started again after its first death; after each further one four times as long."""
DRAIN_SECONDS = 30
"""How long a request in flight may take once the server no longer listens."""
_logger = logging.getLogger(__name__)


class Part(msgspec.Struct, frozen=True):
    """What a worker is told, as JSON in its argument: which one it is of how many, the folder in which they meet, and
    what to serve. `parent` is the number of the file by which it reports to the parent and sees that the parent lives.
    """

    number: int
    workers: int
    folder: str
    parent: int
    use_cases: Sequence[str]


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's one line to its parent: it is ready, or why it cannot be."""

    ready: bool = False
    what: str = ""
    looked: str = ""
    todo: str = ""
    exit_code: int = 1


@dataclass(slots=True)
class _Slot:
    """One worker's place; the processes in it come and go."""

    number: int
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    since: float = inf  # on the loop's clock: when it was ready
    deaths: int = 0
    failed: MillraceError | None = None


def supervise(settings: Settings, use_cases: Sequence[str], *, announce: Announce = announce) -> None:
    """Serve these use cases (names or folders) with `settings.workers` workers until SIGTERM or Ctrl-C.

    `announce` gets the lines that say where and with which key, once all workers are ready. Raises `BusyError` when the
    port is taken, what kept the first workers from starting, and `MillraceError` when workers keep dying.
    """
    with reserve(settings) as reserved, tempfile.TemporaryDirectory(prefix="millrace-") as folder:
        settings = settings.model_copy(update={"port": reserved.getsockname()[1]})
        supervisor = Supervisor(
            lambda number, parent: _command(Part(number, settings.workers, folder, parent, use_cases)),
            settings.workers,
            environment=child_environment(settings),
            patience=settings.leave_seconds + DRAIN_SECONDS + 5,
            ready=lambda: announce(announcement(settings, reserved)),
        )
        asyncio.run(supervisor.run(keep_shipping(settings, use_cases)))
    if supervisor.ended_by == signal.SIGINT:
        raise KeyboardInterrupt


def _command(part: Part) -> Sequence[str]:
    """`-P`: the folder that the server is started in holds no modules of ours."""
    return (sys.executable, "-P", "-m", "serving.worker", msgspec.json.encode(part).decode())


class Supervisor:
    """Keeps `workers` processes of `command` alive; it is called with a worker's number and the number of its file to
    the parent. `patience` are the seconds that a worker may take to end."""

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        workers: int,
        *,
        environment: Mapping[str, str],
        patience: float,
        ready: Callable[[], None],
        pause: float = FIRST_PAUSE,
    ) -> None:
        self._command, self._environment, self._patience = command, dict(environment), patience
        self._slots = [_Slot(number) for number in range(workers)]
        self._ready, self._was_ready, self._first_pause = ready, False, pause
        self._ending = asyncio.Event()
        self.ended_by: int | None = None

    async def run(self, beside: Awaitable[None]) -> None:
        """Until told to end by a signal and all workers have; `beside` is awaited meanwhile, for what is not theirs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        beside = asyncio.ensure_future(beside)
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(self._keep(slot))
        except* MillraceError as errors:
            raise errors.exceptions[0] from None
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)

    def _end(self, number: int) -> None:
        """Pass the signal on: a worker drains at the first SIGTERM and ends at once at a second signal."""
        self.ended_by = number
        if not self._ending.is_set():
            asyncio.get_running_loop().call_later(self._patience, self._send, signal.SIGKILL)
        self._ending.set()
        self._send(number)

    def _send(self, number: int) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                slot.process.send_signal(number)

    async def _keep(self, slot: _Slot) -> None:
        """Run one process after another in this place."""
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            slot.failed, slot.since = None, inf
            try:
                code = await self._live(slot)
            except OSError as error:  # no memory, no process left
                slot.failed, code = MillraceError(f"No process can be started: {error.strerror}."), 1
            if self._ending.is_set():
                self._ended(slot, code)
                return
            slot.deaths = 1 if loop.time() - slot.since > STEADY_SECONDS else slot.deaths + 1
            self._give_up_maybe(slot, code)
            pause = min(LONGEST_PAUSE, self._first_pause * 4 ** (slot.deaths - 1))
            why = slot.failed or _died(code)
            _logger.error("worker %d ended (%s); it is started again in %.1f s", slot.number, why, pause)
            await self._pause(pause)

    async def _live(self, slot: _Slot) -> int:
        """One process from start to end; its exit code."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                slot.process = process = await asyncio.create_subprocess_exec(
                    *self._command(slot.number, theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    env=self._environment,
                    process_group=0,  # Ctrl-C in a terminal reaches the parent alone, which passes it on
                )
            except OSError:
                ours.close()
                raise
        if self._ending.is_set():  # told while this one was being made
            process.send_signal(signal.SIGTERM)
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            self._heard(slot, await reader.readline())
            return await process.wait()
        finally:
            slot.ready = False
            if process.returncode is None:
                await self._stop(process)
            writer.close()

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        process.terminate()
        try:
            async with asyncio.timeout(self._patience):
                await process.wait()
        except TimeoutError:
            process.kill()

    def _heard(self, slot: _Slot, line: bytes) -> None:
        """Take a worker's report; no line at all means that it died before."""
        report = msgspec.json.decode(line, type=Report) if line else Report()
        slot.ready = report.ready
        if report.ready:
            slot.since = asyncio.get_running_loop().time()
        if report.what:
            slot.failed = MillraceError(report.what, looked=report.looked, todo=report.todo)
            slot.failed.exit_code = report.exit_code
        if not self._was_ready and all(each.ready for each in self._slots):
            self._was_ready = True
            self._ready()

    def _give_up_maybe(self, slot: _Slot, code: int) -> None:
        """Raise when going on is of no use: the first start failed, or a worker keeps dying and no other one serves.

        While others serve, a worker that cannot start (the database is down) is tried for as long as it takes.
        """
        if not self._was_ready:
            raise slot.failed or MillraceError(
                f"A worker ended before it was ready: {_died(code)}.", looked="Its output says more."
            )
        others = any(each.ready for each in self._slots)
        if slot.deaths >= DEATHS and not (slot.failed and others):
            raise slot.failed or MillraceError(
                f"Worker {slot.number} has died {slot.deaths} times in a row: {_died(code)}.",
                looked=f"None of them served for {STEADY_SECONDS:g} seconds; the log says more.",
                todo="Try one worker alone: --workers 1.",
            )

    def _ended(self, slot: _Slot, code: int) -> None:
        if code not in (0, -signal.SIGTERM, -signal.SIGINT):
            raise MillraceError(f"Worker {slot.number} did not end well: {_died(code)}.")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            pass


def _died(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
