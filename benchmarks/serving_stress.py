"""What `benchmarks.serving` does to the server beyond its capacity: ten times as much, and a tenant beyond its quota.

Loads here are open: requests leave by a schedule. A request that finds every connection waiting for an answer is given
up, as a caller does whose pool is empty; how many were due and how many left is told with the figures.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, replace
from statistics import median

from benchmarks.figures import Figure
from benchmarks.serving_flight import Case
from benchmarks.serving_load import Outcome
from benchmarks.serving_servers import Server, ask, load_of, measure

OVER = 10
"""Times the capacity that an overload asks for."""
EVERY = 0.25
"""Seconds between two looks at the server's memory."""
QUOTA = 100
"""Requests a second that the noisy tenant may send; it sends 20 times as many."""


class Memory:
    """The resident memory of a server while the body runs, in MB."""

    def __init__(self, server: Server) -> None:
        self._server, self.seen = server, [server.memory_mb()]
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._done.wait(EVERY):
            self.seen.append(self._server.memory_mb())

    def __enter__(self) -> Memory:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    @property
    def growth(self) -> float:
        """By how much the most of the last three quarters exceeds the most of the first."""
        first = max(1, len(self.seen) // 4)
        return max(self.seen[first:], default=0.0) - max(self.seen[:first])


def overload(server: Server, what: str, case: Case, *, connections: int, seconds: float) -> list[Figure]:
    """Ten times the capacity that was measured just before, for so long."""
    capacity = median(measure(server, case, seconds=3).outcome.rate for _ in range(3))
    with Memory(server) as memory:
        outcome = ask(load_of(server, case, connections=connections, seconds=seconds, rate=OVER * capacity))
    healed = seconds_to_health(server, case)
    tell(what, capacity, outcome)
    return [
        Figure(f"{what}, 10 × capacity: right answers, of the capacity", 100 * outcome.rate / capacity, "%", 90, ">="),
        Figure("  … healthy again after", healed, "s", 5),
        Figure("  … memory, growth after the first quarter", memory.growth, "MB", 10),
        Figure("  … most memory", max(memory.seen), "MB"),
        Figure("  … failed: other statuses, wrong scores, broken connections", failures(outcome), "requests", 0),
        *refusals(outcome),
    ]


def refusals(outcome: Outcome) -> list[Figure]:
    """What the refused ones waited for their 503 in the queue of sockets that an overload is; none: no figure."""
    if not outcome.refused_p99:
        return []
    return [Figure("  … a 429 or 503 arrives after, p99 at the client", outcome.refused_p99, "ms")]


def tell(what: str, capacity: float, outcome: Outcome) -> None:
    """What was offered indeed."""
    late = outcome.due - outcome.sent - outcome.unsent
    print(
        f"{what}: capacity {capacity:,.0f} requests/s; due {outcome.due / outcome.seconds:,.0f}/s, "
        f"sent {outcome.sent / outcome.seconds:,.0f}/s, given up with every connection busy "
        f"{outcome.unsent / outcome.seconds:,.0f}/s, too many for the client {late / outcome.seconds:,.0f}/s; "
        f"answers {outcome.statuses}; right ones take {outcome.p50:.0f} ms, p99 {outcome.p99:.0f} ms"
    )


def failures(outcome: Outcome) -> int:
    """What an overload must not cause."""
    others = sum(count for status, count in outcome.statuses.items() if status not in ("200", "429", "503"))
    return others + outcome.wrong + outcome.broken


def seconds_to_health(server: Server, case: Case, *, patience: float = 30.0) -> float:
    """How long until it is ready and three predictions in a row take at most 20 ms; `patience` when it never does."""
    began, row = time.perf_counter(), 0
    while row < 3 and time.perf_counter() < began + patience:
        asked = time.perf_counter()
        fine = server.get("/health/ready") == 200 and server.post(case.path, case.bodies[0]) == 200
        row = row + 1 if fine and time.perf_counter() - asked < 0.04 else 0
    return time.perf_counter() - began


def noisy_tenant(
    server: Server, case: Case, noisy: dict[str, str], *, rate: float, seconds: float, repeat: int
) -> list[Figure]:
    """The p99 of everybody else beside a tenant within its quota and at 20 × it, in turns; and what a refusal takes.

    One client sends both, so that two clients do not wait for each other on their core.
    """
    turns, statuses = list[tuple[float, float]](), dict[str, int]()
    for _ in range(repeat):
        times = []
        for tenants in (0.5 * QUOTA, 20 * QUOTA):
            tenant = load_of(server, case, connections=16, seconds=seconds, rate=tenants, headers=noisy)
            others = load_of(server, case, connections=16, seconds=seconds, rate=rate)
            outcome = ask(replace(others, beside=asdict(tenant)))
            times.append(outcome.p99)
        turns.append((times[0], times[1]))
        for status, count in outcome.beside.items():
            statuses[status] = statuses.get(status, 0) + count
    print(f"The tenant at 20 × its quota of {QUOTA} requests/s was answered {statuses}.")
    alone, beside = (median(times) for times in zip(*turns, strict=True))
    refused = ask(load_of(server, case, connections=1, seconds=seconds, headers=noisy)).refused_p99
    what = f"p99 of {rate:,.0f} requests/s beside a tenant at 20 × its quota (peer: at half of it)"
    return [
        Figure(what, beside, "ms", peer=alone),
        Figure("  … moved by", median(100 * (loud / quiet - 1) for quiet, loud in turns), "%", 10),
        Figure("a refusal (429), one connection, p99 at the client", refused, "ms", 5),
    ]
