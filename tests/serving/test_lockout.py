"""Who fails again and again has to wait, ever longer up to a bound, and is forgotten in the end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from serving.lockout import FAILURES, FIRST, LONGEST, WINDOW, Lockout

NOW = datetime(2013, 4, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def fail(lockout: Lockout, who: str, at: datetime, times: int = FAILURES) -> int:
    for _ in range(times):
        wait = lockout.fail(who, at)
    return wait


def test_a_few_failures_lock_nobody() -> None:
    lockout = Lockout()
    assert fail(lockout, "a", NOW, FAILURES - 1) == 0
    assert lockout.wait("a", NOW) == 0


def test_ten_within_a_minute_lock_for_half_a_minute() -> None:
    lockout = Lockout()
    assert fail(lockout, "a", NOW) == 30
    assert lockout.wait("a", NOW + FIRST - SECOND) == 1
    assert lockout.wait("a", NOW + FIRST) == 0
    assert lockout.wait("b", NOW) == 0


def test_ten_in_more_than_a_minute_lock_nobody() -> None:
    lockout = Lockout()
    for number in range(50):
        assert lockout.fail("a", NOW + number * WINDOW / (FAILURES - 1.5)) == 0


def test_each_lock_is_twice_as_long_up_to_a_quarter_of_an_hour() -> None:
    lockout, at, waits = Lockout(), NOW, []
    for _ in range(8):
        waits.append(fail(lockout, "a", at))
        at += timedelta(seconds=waits[-1])
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


def test_failures_while_locked_make_it_no_longer() -> None:
    lockout = Lockout()
    fail(lockout, "a", NOW)
    assert fail(lockout, "a", NOW + 10 * SECOND, 100) == 20


def test_after_a_long_calm_the_first_lock_is_short_again() -> None:
    lockout = Lockout()
    for at in (NOW, NOW + FIRST):
        fail(lockout, "a", at)
    assert fail(lockout, "a", NOW + 3 * FIRST + LONGEST + WINDOW + SECOND) == 30


def test_memory_is_bounded_and_who_failed_the_least_lately_goes() -> None:
    lockout = Lockout(remembered=100)
    fail(lockout, "old", NOW)
    for number in range(99):
        lockout.fail(f"client {number}", NOW)
    assert lockout.wait("old", NOW) == 30
    lockout.fail("one more", NOW)
    assert lockout.wait("old", NOW) == 0
