"""A time limit ends what takes too long, in any thread, and leaves no trace of itself."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from training.deadline import DeadlineError, deadline

SHORT, LONG = timedelta(milliseconds=50), timedelta(seconds=60)


def spin() -> None:
    """Python steps without an end."""
    while True:
        time.sleep(0.001)


def outcome(body: Callable[[], None], limit: timedelta) -> str:
    """What becomes of a body under a limit."""
    try:
        with deadline(limit):
            body()
    except DeadlineError as error:
        return str(error)
    return "in time"


def in_a_thread(work: Callable[[], str]) -> str:
    """The same in a thread that is not the main one."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(30)
    return found[0]


def here(work: Callable[[], str]) -> str:
    return work()


EVERYWHERE = pytest.mark.parametrize("where", [here, in_a_thread])


@EVERYWHERE
def test_what_takes_too_long_is_ended(where: Callable[[Callable[[], str]], str]) -> None:
    assert where(lambda: outcome(spin, SHORT)) == "It took longer than 0.05 s."


@EVERYWHERE
def test_what_is_in_time_goes_on(where: Callable[[Callable[[], str]], str]) -> None:
    assert where(lambda: outcome(lambda: None, LONG)) == "in time"


@EVERYWHERE
def test_no_time_at_all_is_up_at_once(where: Callable[[Callable[[], str]], str]) -> None:
    assert where(lambda: outcome(spin, timedelta(0))) == "It took longer than 0 s."


@EVERYWHERE
def test_code_that_goes_on_after_any_error_is_ended_too(where: Callable[[Callable[[], str]], str]) -> None:
    def stubborn() -> None:
        while True:
            try:
                time.sleep(0.001)
            except Exception:  # that is what is tested
                continue

    assert where(lambda: outcome(stubborn, SHORT)).startswith("It took longer")


@EVERYWHERE
def test_the_bodys_own_error_stays_what_it_is(where: Callable[[Callable[[], str]], str]) -> None:
    def work() -> str:
        with pytest.raises(KeyError), deadline(LONG):
            raise KeyError("depth")
        return "kept"

    assert where(work) == "kept"


@EVERYWHERE
def test_what_ends_just_before_its_limit_is_never_struck_later(where: Callable[[Callable[[], str]], str]) -> None:
    def work() -> str:
        for _ in range(200):
            try:
                with deadline(timedelta(microseconds=1_000)):
                    end = time.perf_counter() + 0.001
                    while time.perf_counter() < end:
                        pass
            except DeadlineError:
                pass
            time.sleep(0)
        time.sleep(0.05)  # whatever is still under way strikes here
        return "quiet"

    assert where(work) == "quiet"


def test_the_handler_and_a_running_timer_are_as_before() -> None:
    struck: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: struck.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 30)
        assert outcome(spin, SHORT).startswith("It took longer")
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 0 < left <= 30
        signal.raise_signal(signal.SIGALRM)
        assert struck == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_limit_inside_another_leaves_the_outer_one_in_force() -> None:
    def both() -> None:
        outcome(spin, SHORT)
        spin()

    assert outcome(both, timedelta(milliseconds=200)) == "It took longer than 0.2 s."
