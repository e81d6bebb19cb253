"""Times calls so that two runs agree: in blocks, less the time that other processes held the core.

The end of a distribution is where whoever else wants the cores shows first. With three busy processes a core, 100 rows
read a p99 of 8.8 ms for a model that takes 0.7 ms on an idle machine. So of each call the time is taken off that its
thread was ready to run and had no core, which the system counts: then the same load read 0.8 ms. And the figure is the
median over ten blocks of the block's quantile, so one bad second does not decide. On an idle machine nothing is taken
off. A model's own slow calls all count; so does what its other threads, if it has any, had to wait. It knows nothing of
models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import TypeVar

from serving.measure.machine import waited_by_thread

BLOCKS = 10
_LEAST_BLOCKS = 3
_LEAST_CALLS = 20
_LEAST_SECONDS = 0.1
"""A block lasts at least so long: ten calls of 20 µs would all fall into one of the machine's moods."""
_WARM_UP = 200

Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call, and how many `calls` say so.

    `waited`: share of those calls' time that was taken off, since their thread had no core. `made`: all calls, with
    those of warm-up.
    """

    p50_ms: float
    p99_ms: float
    calls: int
    waited: float
    made: int


@dataclass(frozen=True, slots=True)
class _Block:
    """Seconds: the calls' quantiles, less what they waited; the calls' sum, less and with it."""

    p50: float
    p99: float
    net: float
    gross: float


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """`now` in seconds, and how many nanoseconds of it this thread has `waited` for a core; 0 if nobody can tell."""

    now: Callable[[], float]
    waited: Callable[[], int]

    def net(self) -> float:
        """Seconds, less what the thread waited."""
        return self.now() - self.waited() / 1e9

    def block(self, call: Callable[[Request], object], requests: Sequence[Request]) -> _Block:
        """Time one call a request."""
        net, gross = list[float](), 0.0
        before = self.waited()
        for request in requests:
            started = self.now()
            call(request)
            taken = self.now() - started
            after = self.waited()
            off = (after - before) / 1e9
            net.append(taken - off if off < taken else taken)  # more than it took: that was before the call
            gross += taken
            before = after
        ordered = sorted(net)
        return _Block(quantile(ordered, 0.50), quantile(ordered, 0.99), sum(net), gross)


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """The calling thread's."""
    with waited_by_thread() as waited:
        yield Stopwatch(time.perf_counter, waited)


def timed(
    call: Callable[[Request], object],
    requests: Sequence[Request],
    *,
    calls: int,
    limit_s: float,
    stopwatch: Stopwatch,
) -> Timing:
    """Time `call` on the requests in turn: at least `calls` times, or as often as `limit_s` seconds allow.

    However slow it is, it is called 60 times. Warm-up calls, up to 200, come first and do not count. The stopwatch is
    the calling thread's.
    """
    turns, end = cycle(requests), stopwatch.now() + limit_s
    warm = _warm_up(call, turns, stopwatch, limit_s / 20)
    size = _block_size(median(warm), calls, limit_s)
    blocks: list[_Block] = []
    while len(blocks) < _LEAST_BLOCKS or (len(blocks) < BLOCKS and stopwatch.now() < end):
        blocks.append(stopwatch.block(call, list(islice(turns, size))))
    return Timing(
        p50_ms=1e3 * median(block.p50 for block in blocks),
        p99_ms=1e3 * median(block.p99 for block in blocks),
        calls=size * len(blocks),
        waited=1 - sum(block.net for block in blocks) / sum(block.gross for block in blocks),
        made=len(warm) + size * len(blocks),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the ordered values lie below."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _warm_up(
    call: Callable[[Request], object], turns: Iterator[Request], stopwatch: Stopwatch, limit_s: float
) -> list[float]:
    """The seconds of up to 200 calls, in not much more than the limit."""
    end, taken = stopwatch.now() + limit_s, list[float]()
    while not taken or (len(taken) < _WARM_UP and stopwatch.now() < end):
        taken.append(stopwatch.block(call, [next(turns)]).net)
    return taken


def _block_size(seconds: float, calls: int, limit_s: float) -> int:
    """How many calls of so many seconds make a block."""
    wanted = max(-(-calls // BLOCKS), int(_LEAST_SECONDS / seconds))
    return max(min(wanted, int(limit_s / BLOCKS / seconds)), _LEAST_CALLS)
