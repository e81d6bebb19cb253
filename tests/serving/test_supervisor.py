"""The parent process, with workers that are a line of Python each."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from millrace.errors import MillraceError
from serving.supervisor import Supervisor

BEGIN = "import os, signal, socket, sys, time; parent = socket.socket(fileno={file}); "
READY = "parent.sendall(b'{\"ready\":true}\\n'); "
WAIT = "parent.recv(1)"
FAIL = 'parent.sendall(b\'{"what":"No database.","exit_code":2}\\n\'); sys.exit(2)'


def supervisor(
    code: Callable[[int], str], *, workers: int = 2, patience: float = 30, ready: Callable[[], None] = lambda: None
) -> Supervisor:
    def command(number: int, file: int) -> Sequence[str]:
        return (sys.executable, "-S", "-c", BEGIN.format(file=file) + code(number))

    return Supervisor(command, workers, environment=os.environ, patience=patience, ready=ready, pause=0.0001)


async def nothing() -> None:
    await asyncio.Event().wait()


def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_is_ready_once_all_workers_are_and_ends_with_them(tmp_path: Path) -> None:
    begun: list[list[str]] = []

    def ready() -> None:
        begun.append(sorted(path.name for path in tmp_path.iterdir()))
        end()

    def code(number: int) -> str:
        return f"open({str(tmp_path / str(number))!r}, 'w'); " + READY + WAIT

    parent = supervisor(code, ready=ready)
    asyncio.run(parent.run(nothing()))
    assert begun == [["0", "1"]]
    assert parent.ended_by == signal.SIGTERM


def test_a_worker_that_cannot_start_ends_all_with_its_reason_and_exit_code() -> None:
    with pytest.raises(MillraceError, match="No database") as caught:
        asyncio.run(supervisor(lambda number: FAIL if number else READY + WAIT).run(nothing()))
    assert caught.value.exit_code == 2


def test_a_worker_that_dies_before_it_says_anything_ends_all() -> None:
    with pytest.raises(MillraceError, match="before it was ready: exit code 3"):
        asyncio.run(supervisor(lambda number: "sys.exit(3)").run(nothing()))


def test_a_process_that_cannot_be_made_is_told() -> None:
    parent = Supervisor(
        lambda *_: ("/no/such/program",), 1, environment=os.environ, patience=30, ready=lambda: None, pause=0.0001
    )
    with pytest.raises(MillraceError, match="No process can be started: No such file"):
        asyncio.run(parent.run(nothing()))


def test_a_crash_loop_ends_with_an_error() -> None:
    with pytest.raises(MillraceError, match="died 5 times in a row: SIGKILL"):
        asyncio.run(supervisor(lambda number: READY + "os.kill(os.getpid(), 9)", workers=1).run(nothing()))


def test_while_another_serves_a_worker_that_cannot_start_is_tried_again_and_again(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    tries.touch()

    def code(number: int) -> str:
        if number == 0:
            return READY + WAIT
        count = (
            f"file = open({str(tries)!r}, 'a'); file.write('x'); file.close(); n = os.path.getsize({str(tries)!r}); "
        )
        failed = FAIL.partition("; ")[0]
        body = f"({failed}, sys.exit(2)) if 1 < n < 8 else parent.sendall(b'{{\"ready\":true}}\\n'); "
        return (
            count + body + f"n == 1 and sys.exit(1); n == 8 and os.kill(os.getppid(), {int(signal.SIGTERM)}); " + WAIT
        )

    asyncio.run(supervisor(code).run(nothing()))
    assert tries.stat().st_size == 8


def test_a_worker_that_does_not_end_is_killed_and_told() -> None:
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "time.sleep(600)"
    with pytest.raises(MillraceError, match="did not end well: SIGKILL"):
        asyncio.run(supervisor(lambda number: stubborn, workers=1, patience=0.2, ready=end).run(nothing()))


def test_what_runs_beside_the_workers_ends_with_them() -> None:
    ended: list[bool] = []

    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    asyncio.run(supervisor(lambda number: READY + WAIT, workers=1, ready=end).run(beside()))
    assert ended == [True]
