"""What may hang is left behind, and not without end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from millrace.errors import MillraceError
from serving.aside import MOST, Aside, start


def test_it_gives_what_the_work_gives_and_raises_what_it_raises() -> None:
    def broken() -> int:
        raise TimeoutError("of its own")

    aside = Aside("work")
    assert aside.run(lambda: 5, seconds=30) == 5
    with pytest.raises(TimeoutError, match="of its own"):
        aside.run(broken, seconds=30)


def test_what_takes_too_long_is_left_behind_and_no_more_than_a_few_are() -> None:
    release, aside = threading.Event(), Aside("work")
    for _ in range(MOST):
        with pytest.raises(MillraceError, match="It took longer"):
            aside.run(release.wait, seconds=0.01)
    with pytest.raises(MillraceError, match="still hang"):
        aside.run(lambda: 5, seconds=30)
    release.set()
    while any(thread.name == "work" for thread in threading.enumerate()):
        pass
    assert aside.run(lambda: 5, seconds=30) == 5


def test_who_waits_may_be_cancelled_and_the_work_goes_on() -> None:
    release = threading.Event()

    async def wait() -> bool:
        running = start(release.wait, "work")
        waiting = asyncio.wrap_future(running)
        waiting.cancel()
        release.set()
        return await asyncio.to_thread(running.result, 30)

    assert asyncio.run(wait()) is True


def test_its_threads_keep_no_process_alive() -> None:
    assert start(lambda: threading.current_thread().daemon, "work").result(30)
