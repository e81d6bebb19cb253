"""The online endpoint beside its peers: requests a second, latency, memory, start, overload, and a tenant too many.

The server has one core and the client another; every server runs the same gradient boosting on the same flights, and
all are measured in turns, each stopped while another works, so that a ratio is of the same minutes. Answers are checked
against the model's own scores. Ours does all that it does in production: key check, quota, micro-batches, metrics and
prediction log. `--peers` installs the peers that are absent, `--quick` measures shorter and less often.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks import serving_stress as stress
from benchmarks.figures import FOLDER, Figure, report
from benchmarks.serving_flight import Case, Flight, prepared
from benchmarks.serving_ours import issued, ours, redis_features, start_seconds
from benchmarks.serving_peers import ENCODED, SAME, Form, Peer, present, served
from benchmarks.serving_servers import (
    CLIENT_CORE,
    SERVER_CORE,
    Measured,
    Server,
    await_answer,
    free_port,
    measure,
    running,
)
from millrace.settings import quiet_vendors

HUNDRED = 100
"""Rows of a large request."""
FLOORS = {"FastAPI": 1.5, "ASGI": 0.5}
"""How many times faster than an empty FastAPI route and than a bare ASGI callable ours must be."""


@dataclass(frozen=True)
class Run:
    """One thing to measure in every round."""

    name: str
    server: Server
    case: Case
    connections: int = 64
    longer: float = 1.0
    """How many times as long as others it is measured: a slow peer answers next to nothing within seconds."""


@dataclass(frozen=True)
class Pace:
    """How long and how often; `overload` is its seconds."""

    seconds: float
    rounds: int
    starts: int
    overload: float


QUICK, FULL = Pace(1.5, 3, 2, 10.0), Pace(4.0, 7, 5, 60.0)


class Rounds:
    """What every run came to, a measurement a round."""

    def __init__(self, runs: Sequence[Run], pace: Pace) -> None:
        self.found: dict[str, list[Measured]] = {run.name: [] for run in runs}
        for server in {id(run.server): run.server for run in runs}.values():
            server.pause()
        for number in range(pace.rounds):
            for run in runs:
                run.server.resume()
                seconds = pace.seconds * run.longer
                self.found[run.name].append(measure(run.server, run.case, connections=run.connections, seconds=seconds))
                run.server.pause()
            print(f"round {number + 1} of {pace.rounds}:", self._line(number), flush=True)
        for server in {id(run.server): run.server for run in runs}.values():
            server.resume()

    def _line(self, number: int) -> str:
        return ", ".join(f"{name} {found[number].outcome.rate:,.0f}/s" for name, found in self.found.items())

    def typical(self, name: str, figure: Callable[[Measured], float]) -> float:
        """The median over the rounds."""
        return median(figure(one) for one in self.found[name])

    def rate(self, name: str) -> float:
        """Right answers a second."""
        return self.typical(name, lambda one: one.outcome.rate)

    def ratio(self, name: str, other: str) -> float:
        """How many times as many right answers a second, the median over the rounds."""
        pairs = zip(self.found[name], self.found[other], strict=True)
        return median(one.outcome.rate / max(peer.outcome.rate, 1e-9) for one, peer in pairs)

    def cpu_us(self, name: str) -> float:
        """Microseconds of the server's CPU an answer."""
        return self.typical(name, lambda one: one.cpu_us)

    def wrong(self, name: str) -> int:
        """Answers that were not 200 with the right scores."""
        return sum(sum(one.outcome.statuses.values()) - one.outcome.good for one in self.found[name])


@contextmanager
def floor(kind: str) -> Iterator[Server]:
    """A server that answers a constant."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving_floor", kind.lower(), str(port)]
    with running(kind, command, port, FOLDER / "serving" / f"{kind.lower()}.log") as server:
        yield server


def measured(flight: Flight, peers: Sequence[Peer], server: Server, redis: Server | None, pace: Pace) -> list[Figure]:
    """Everything that is a rate or a latency, in rounds."""
    one, many = flight.ours(), flight.ours(HUNDRED)
    runs = [Run("ours", server, one), Run("by keys", server, flight.by_keys()), Run("ours × 100", server, many)]
    runs.append(Run("one connection", server, one, 1))
    if redis is not None:
        runs.append(Run("by keys, Redis", redis, flight.by_keys()))
    with ExitStack() as stack:
        constant = Case("/predict", one.bodies, [], "")
        runs += [Run(kind, stack.enter_context(floor(kind)), constant) for kind in FLOORS]
        for peer in peers:
            other = stack.enter_context(served(peer, flight))
            for form in peer.forms:
                runs += [
                    Run(asked_as(peer, form, rows), other, form.case(flight, rows), longer=peer.longer)
                    for rows in (1, HUNDRED)
                ]
        for run in runs:
            await_answer(run.server, run.case)
        rounds = Rounds(runs, pace)
    return one_row(rounds, peers) + latency(rounds) + by_keys(rounds) + hundred(rounds, peers)


def asked_as(peer: Peer, form: Form, rows: int = 1) -> str:
    """The name of a peer's run."""
    return f"{peer.name}, {form.name}" + (f" × {rows}" if rows > 1 else "")


def one_row(rounds: Rounds, peers: Sequence[Peer]) -> list[Figure]:
    """64 connections, all features given."""
    ours, figures = rounds.rate("ours"), []
    factors = {asked_as(peer, form): peer.factor for peer in peers for form in peer.forms} | FLOORS
    for name, factor in factors.items():
        what = {"FastAPI": "an empty FastAPI route", "ASGI": "a bare ASGI callable"}.get(name, name)
        figures += [
            Figure(f"one row, 64 connections (peer: {what})", ours, "req/s", peer=rounds.rate(name)),
            Figure(f"  … × {what}", rounds.ratio("ours", name), "×", factor, ">="),
            Figure("  … CPU of the server a request", rounds.cpu_us("ours"), "µs", peer=rounds.cpu_us(name)),
        ]
    waited = rounds.typical("ours", lambda one: one.waited)
    return [
        *figures,
        Figure("  … answers that were not right", rounds.wrong("ours"), "answers", 0),
        Figure("  … our server waited for its core while other programs ran", waited, "%"),
    ]


def latency(rounds: Rounds) -> list[Figure]:
    """One connection."""
    return [
        Figure(f"one row, one connection, {name}", rounds.typical("one connection", figure), "ms", limit)
        for name, figure, limit in (
            ("p50", lambda one: one.outcome.p50, 1.0),
            ("p99", lambda one: one.outcome.p99, 5.0),
        )
    ]


def by_keys(rounds: Rounds) -> list[Figure]:
    """Features read online, against features given."""
    figures, given = [], rounds.rate("ours")
    for name, store in (("by keys", "SQLite"), ("by keys, Redis", "Redis")):
        if name in rounds.found:
            figures += [
                Figure(f"by entity keys, {store} (peer: features given)", rounds.rate(name), "req/s", peer=given),
                Figure("  … of the rate with features given", 100 * rounds.ratio(name, "ours"), "%", 40, ">="),
                Figure("  … answers that were not right", rounds.wrong(name), "answers", 0),
            ]
    return figures


def hundred(rounds: Rounds, peers: Sequence[Peer]) -> list[Figure]:
    """Rows a second with 100 a request."""
    ours = HUNDRED * rounds.rate("ours × 100")
    if not peers:
        return [Figure("100 rows a request", ours, "rows/s")]
    figures = list[Figure]()
    for name in (SAME, ENCODED):
        forms = [asked_as(peer, form, HUNDRED) for peer in peers for form in peer.forms if form.name == name]
        if not forms:
            continue
        best = max(forms, key=rounds.rate)
        cpu, theirs = (rounds.cpu_us(run) / HUNDRED for run in ("ours × 100", best))
        figures += [
            Figure(f"100 rows a request (peer: {run})", ours, "rows/s", peer=HUNDRED * rounds.rate(run))
            for run in forms
        ]
        figures += [
            Figure(f"  … × the best peer, {best}", rounds.ratio("ours × 100", best), "×", 6, ">="),
            Figure("  … CPU of the server a row (peer: the best)", cpu, "µs", peer=theirs),
        ]
    return [*figures, Figure("  … answers that were not right", rounds.wrong("ours × 100"), "answers", 0)]


def everything(flight: Flight, peers: Sequence[Peer], pace: Pace) -> list[Figure]:
    """All figures; the servers that they need live only here."""
    with ExitStack() as stack:
        keys = stack.enter_context(issued(flight.settings, stress.QUOTA))
        server = stack.enter_context(ours(flight, flight.settings, keys))
        remote = stack.enter_context(redis_features(flight))
        redis = stack.enter_context(ours(flight, remote, keys, name="redis")) if remote else None
        found = measured(flight, peers, server, redis, pace)
        found.append(Figure("resident memory of a worker, after all that", server.memory_mb(), "MB", 250))
        if redis is not None:
            redis.end()
        one, many = flight.ours(), flight.ours(HUNDRED)
        found += stress.overload(server, "one row, 2,000 connections", one, connections=2_000, seconds=pace.overload)
        found += stress.overload(server, "100 rows, 400 connections", many, connections=400, seconds=pace.overload)
        found += stress.noisy_tenant(server, one, keys.narrow, rate=2_000, seconds=pace.seconds, repeat=pace.rounds)
    starts = median(start_seconds(flight.settings) for _ in range(pace.starts))
    return [*found, Figure(f"start → ready, median of {pace.starts}", starts, "s", 3)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="install the peers that are absent")
    parser.add_argument("--quick", action="store_true", help="shorter and less often")
    given = parser.parse_args()
    quiet_vendors()
    pace = QUICK if given.quick else FULL
    if SERVER_CORE == CLIENT_CORE:
        print("This machine has one core: server and client share it, and the figures mean little.")
    peers, flight = present(install=given.peers), prepared()
    report("serving", everything(flight, peers, pace))


if __name__ == "__main__":
    main()
