"""The load client: plain sockets and one `epoll`, every request's bytes built beforehand, every answer checked.

Run as a process of its own, on a core of its own: `python -m benchmarks.serving_load < LOAD.json` prints an `Outcome`
as JSON. It imports the standard library alone and knows nothing of whom it asks. Closed loop: each connection sends its
next request when it has the answer to its last. Open loop: requests leave by a schedule, whatever the answers do.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BUFFER = 1 << 20
_SENDS_A_TURN = 64
"""An open loop that is late reads answers at least this often."""


@dataclass(frozen=True)
class Load:
    """What to send where. `bodies` are JSON texts taken in turn and `scores` what each must be answered with, as far as
    `pattern` finds numbers in an answer; without a pattern a status 200 is enough. `rate`: requests a second by
    schedule; 0: closed loop. `core`: where to run; None: anywhere. `beside`: another load by schedule, on connections
    of its own, which this client sends meanwhile and counts apart."""

    port: int
    path: str
    bodies: list[str]
    scores: list[list[float]] = field(default_factory=list)
    pattern: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 64
    seconds: float = 5.0
    warm: float = 1.0
    rate: float = 0.0
    core: int | None = None
    beside: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it after the warm-up. `wrong` answers have status 200 and other scores than they should; times are
    milliseconds from sending to the whole answer. `due` requests were to leave; `unsent` of them found no connection
    free and were given up; what is neither sent nor unsent the client was too slow for. `broken` connections closed
    without an answer."""

    seconds: float
    statuses: dict[str, int]
    wrong: int
    p50: float
    p99: float
    refused_p99: float
    due: int
    sent: int
    unsent: int
    broken: int
    beside: dict[str, int] = field(default_factory=dict)
    """The statuses of the load beside."""

    @property
    def good(self) -> int:
        """Right answers."""
        return self.statuses.get("200", 0) - self.wrong

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return self.good / self.seconds


class Connection:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("number", "received", "rest", "since", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.socket.setblocking(False)
        self.received, self.rest, self.number, self.since = b"", b"", 0, 0.0


class Client:
    """Sends a load and counts what comes back."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = [_request(load, body.encode()) for body in load.bodies]
        self._pattern = re.compile(load.pattern.encode()) if load.pattern else None
        self._poll = select.epoll()
        self._all: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._turn = 0
        self._beside = Client(Load(**load.beside)) if load.beside else None
        for _ in range(load.connections):
            self._idle.append(self._connect())
        self._forget()

    def run(self) -> Outcome:
        """Warm up, measure, tell."""
        send = self._open if self._load.rate else self._closed
        send(self._load.warm)
        self._forget()
        took = send(self._load.seconds)
        statuses = {status.decode(): count for status, count in sorted(self._statuses.items())}
        (p50, p99), (_, refused) = _quantiles(self._took), _quantiles(self._refused)
        counts = (self._due or self._sent, self._sent, self._unsent, self._broken)
        return Outcome(took, statuses, self._wrong, p50, p99, refused, *counts, self._statuses_beside())

    def _statuses_beside(self) -> dict[str, int]:
        found = self._beside._statuses if self._beside else {}
        return {status.decode(): count for status, count in sorted(found.items())}

    def _forget(self) -> None:
        if self._beside is not None:
            self._beside._forget()
        self._statuses: dict[bytes, int] = {}
        self._took, self._refused = array("d"), array("d")
        self._wrong = self._broken = self._unsent = self._due = self._sent = self._done = 0

    def _connect(self) -> Connection:
        connection = Connection(self._load.port)
        self._all[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        return connection

    def _closed(self, seconds: float) -> float:
        began = now = time.perf_counter()
        while now < began + seconds:
            while self._idle:
                self._send(self._idle.popleft(), now)
            for number, events in self._poll.poll(0.1):
                connection = self._handle(number, events)
                if connection is not None:
                    self._send(connection, time.perf_counter())
            now = time.perf_counter()
        return now - began

    def _open(self, seconds: float) -> float:
        began = now = time.perf_counter()
        pause = 0 if self._beside else 1 / self._load.rate
        self._done = 0
        if self._beside is not None:
            self._beside._done = 0
        while now < began + seconds:
            self._step(now - began, pause)
            if self._beside is not None:
                self._beside._step(now - began, 0)
            now = time.perf_counter()
        return now - began

    def _step(self, passed: float, pause: float) -> None:
        """Send what is due after so many seconds, and read what has come."""
        self._due = int(passed * self._load.rate)
        burst = min(self._due - self._done, _SENDS_A_TURN, len(self._idle))
        for _ in range(burst):
            self._send(self._idle.popleft(), time.perf_counter())
        self._done += burst
        if not self._idle:  # whoever finds no connection gives up
            self._unsent += self._due - self._done
            self._done = self._due
        for number, events in self._poll.poll(0 if self._done < self._due else pause):
            connection = self._handle(number, events)
            if connection is not None:
                self._idle.append(connection)

    def _send(self, connection: Connection, now: float) -> None:
        self._turn = (self._turn + 1) % len(self._requests)
        self._sent += 1
        connection.number, connection.since = self._turn, now
        connection.rest = self._requests[self._turn]
        self._push(connection)

    def _push(self, connection: Connection) -> None:
        """Send as much of the request as the socket takes; the rest goes when it takes more."""
        whole = connection.rest
        try:
            connection.rest = whole[connection.socket.send(whole) :]
        except BlockingIOError:
            pass
        except OSError:  # closed: the poll tells, too
            connection.rest = b""
        if connection.rest:
            self._poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _handle(self, number: int, events: int) -> Connection | None:
        """What a socket is ready for; returns the connection when it has its whole answer and is free again."""
        connection = self._all[number]
        if events & select.EPOLLOUT:
            self._poll.modify(connection.socket, select.EPOLLIN)
            self._push(connection)
        if not events & ~select.EPOLLOUT:
            return None
        try:
            data = connection.socket.recv(_BUFFER)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return self._replace(connection)
        received = connection.received + data if connection.received else data
        head, end, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            connection.received = received
            return None
        connection.received = b""
        self._count(connection, head[9:12], body)
        return connection

    def _replace(self, connection: Connection) -> Connection:
        self._broken += 1
        del self._all[connection.socket.fileno()]
        self._poll.unregister(connection.socket)
        connection.socket.close()
        return self._connect()

    def _count(self, connection: Connection, status: bytes, body: bytes) -> None:
        self._statuses[status] = self._statuses.get(status, 0) + 1
        took = time.perf_counter() - connection.since
        if status == b"200":
            self._took.append(took)
            if self._pattern is not None and not self._right(connection.number, body):
                self._wrong += 1
        elif status in (b"429", b"503"):
            self._refused.append(took)

    def _right(self, number: int, body: bytes) -> bool:
        """Whether every score is there and is the one that the model gives."""
        assert self._pattern is not None
        wanted, found = self._load.scores[number], self._pattern.findall(body)
        if len(found) != len(wanted):
            return False
        return all(abs(float(one) - other) < 1e-4 for one, other in zip(found, wanted, strict=True))


def _request(load: Load, body: bytes) -> bytes:
    headers = {"Host": f"127.0.0.1:{load.port}", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"POST {load.path} HTTP/1.1", *(f"{name}: {value}" for name, value in (headers | load.headers).items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _quantiles(took: array[float]) -> tuple[float, float]:
    """The median and the 99th percentile in milliseconds; 0 of nothing."""
    if not took:
        return 0.0, 0.0
    ordered = sorted(took)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3


def main() -> None:
    """Run the load that standard input describes."""
    load = Load(**json.load(sys.stdin))
    if load.core is not None:
        os.sched_setaffinity(0, {load.core})
    print(json.dumps(asdict(Client(load).run())))


if __name__ == "__main__":
    main()
