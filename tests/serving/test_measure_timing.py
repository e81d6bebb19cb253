"""How calls are timed, on a clock of the tests' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, cycle, islice

import pytest

from serving.measure.timing import Stopwatch, quantile, stopwatch, timed


@dataclass
class Machine:
    """A model whose calls take the seconds in `takes`, in turn; `puts_off` is added to every call in which somebody
    else has the core, which are those whose numbers are in `busy`."""

    takes: Sequence[float] = (0.001,)
    puts_off: float = 0.0
    busy: range = range(0)
    counts_waiting: bool = True
    now: float = 0.0
    waited: float = 0.0
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: str) -> None:
        number = len(self.asked)
        self.asked.append(request)
        self.now += self.takes[number % len(self.takes)]
        if number in self.busy:
            self.now += self.puts_off
            self.waited += self.puts_off

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(lambda: self.now, lambda: round(1e9 * self.waited) if self.counts_waiting else 0)


def test_the_figures_are_milliseconds_of_one_call() -> None:
    machine = Machine([0.002] * 95 + [0.007] * 5)
    timing = timed(machine, ["a"], calls=1_000, limit_s=60, stopwatch=machine.stopwatch())
    assert (timing.p50_ms, timing.p99_ms) == (pytest.approx(2), pytest.approx(7))


def test_as_many_calls_are_made_as_asked() -> None:
    machine = Machine()
    timing = timed(machine, ["a"], calls=1_005, limit_s=60, stopwatch=machine.stopwatch())
    assert timing.calls == 1_010  # ten equal blocks
    assert timing.made == len(machine.asked) == timing.calls + 200


def test_fast_calls_are_made_for_a_second_at_least() -> None:
    machine = Machine([0.00005])
    assert timed(machine, ["a"], calls=1_000, limit_s=60, stopwatch=machine.stopwatch()).calls == pytest.approx(20_000)


def test_slow_calls_are_made_while_the_time_lasts() -> None:
    machine = Machine([0.01])
    timing = timed(machine, ["a"], calls=10_000, limit_s=5, stopwatch=machine.stopwatch())
    assert 400 < timing.calls < 500
    assert machine.now < 6


def test_very_slow_calls_are_made_sixty_times() -> None:
    machine = Machine([1.0])
    assert timed(machine, ["a"], calls=10_000, limit_s=5, stopwatch=machine.stopwatch()).calls == 60


def test_the_requests_take_turns() -> None:
    machine = Machine()
    timed(machine, ["a", "b", "c"], calls=100, limit_s=60, stopwatch=machine.stopwatch())
    assert machine.asked == list(islice(cycle("abc"), len(machine.asked)))


def test_waiting_for_a_core_is_taken_off() -> None:
    machine = Machine(puts_off=0.004, busy=range(100_000))
    timing = timed(machine, ["a"], calls=1_000, limit_s=60, stopwatch=machine.stopwatch())
    assert timing.p99_ms == pytest.approx(1)
    assert timing.waited == pytest.approx(0.8)


def test_waiting_that_nobody_counts_is_in_the_figure() -> None:
    machine = Machine(puts_off=0.004, busy=range(100_000), counts_waiting=False)
    timing = timed(machine, ["a"], calls=1_000, limit_s=60, stopwatch=machine.stopwatch())
    assert timing.p99_ms == pytest.approx(5)
    assert timing.waited == 0


def test_waiting_between_two_calls_is_not_taken_off_the_second() -> None:
    machine = Machine()
    readings = count(0, 10**9)  # a second between any two readings, of which no call knows
    timing = timed(
        machine, ["a"], calls=100, limit_s=60, stopwatch=Stopwatch(lambda: machine.now, lambda: next(readings))
    )
    assert timing.p50_ms == pytest.approx(1)


def test_four_bad_blocks_of_ten_do_not_decide() -> None:
    machine = Machine(puts_off=0.05, busy=range(200, 600), counts_waiting=False)
    timing = timed(machine, ["a"], calls=1_000, limit_s=60, stopwatch=machine.stopwatch())
    assert timing.p99_ms == pytest.approx(1)


def test_a_model_s_own_slow_calls_count() -> None:
    machine = Machine([0.001] * 9 + [0.02])
    assert timed(machine, ["a"], calls=1_000, limit_s=60, stopwatch=machine.stopwatch()).p99_ms == pytest.approx(20)


def test_what_a_call_raises_is_raised() -> None:
    def fails(request: str) -> None:
        raise ValueError(request)

    with pytest.raises(ValueError, match="a"):
        timed(fails, ["a"], calls=10, limit_s=1, stopwatch=Machine().stopwatch())


@pytest.mark.parametrize(("share", "value"), [(0.5, 51), (0.99, 100), (1.0, 100)])
def test_a_quantile_has_that_share_below_it(share: float, value: float) -> None:
    assert quantile(range(1, 101), share) == value


def test_the_net_time_leaves_waiting_out() -> None:
    machine = Machine(takes=[0.25], puts_off=1.0, busy=range(1))
    before = machine.stopwatch().net()
    machine("a")
    assert machine.stopwatch().net() - before == pytest.approx(0.25)


def test_a_stopwatch_of_this_machine_goes_on() -> None:
    with stopwatch() as watch:
        first = watch.now()
        assert watch.now() > first
        assert watch.waited() >= 0
