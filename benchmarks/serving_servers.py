"""Servers of `benchmarks.serving` as processes: pinned to a core, waited for, stopped while another is measured, ended.

A server may be several processes: their CPU time and memory are added up. This module knows nothing of their answers.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.serving_flight import Case
from benchmarks.serving_load import Load, Outcome

SERVER_CORE, CLIENT_CORE = (0, 1) if len(os.sched_getaffinity(0)) > 1 else (0, 0)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Spent:
    """Seconds that a server's threads ran, and that they were ready to run but their core was not theirs."""

    ran: float
    waited: float


@dataclass(frozen=True)
class Measured:
    """One load: what came of it, and what the server spent on it, its warm-up left out as well as may be."""

    outcome: Outcome
    spent: Spent

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's CPU an answer."""
        return 1e6 * self.spent.ran / max(1, sum(self.outcome.statuses.values()))

    @property
    def waited(self) -> float:
        """Percent of the time that the server was kept from its core by others: 0 on a quiet machine."""
        return 100 * self.spent.waited / self.outcome.seconds


@dataclass
class Server:
    """A running server; `headers` go with every request to it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    def pids(self) -> list[int]:
        """Its processes: the first one and all below it."""
        children: dict[int, list[int]] = {}
        for one in Path("/proc").glob("[0-9]*"):
            state, parent, *_ = stat(int(one.name))
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(one.name))
        found, rest = [], [self.process.pid] if self.process.poll() is None else []
        while rest:
            found.append(rest.pop())
            rest += children.get(found[-1], [])
        return found

    def spent(self) -> Spent:
        """Of all its living threads, since they began."""
        threads = [one for pid in self.pids() for one in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        ran = waited = 0
        for thread in threads:
            with suppress(OSError):  # it has just ended
                both = thread.read_text().split()
                ran, waited = ran + int(both[0]), waited + int(both[1])
        return Spent(ran / 1e9, waited / 1e9)

    def memory_mb(self) -> float:
        """Resident memory of all its processes."""
        return sum(int(stat(pid)[21]) for pid in self.pids()) * _PAGE / 1e6

    def pause(self) -> None:
        """Stop its processes where they are, so that they take nothing from another's measurement."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, what: signal.Signals) -> None:
        for pid in self.pids():
            os.kill(pid, what)

    def end(self) -> None:
        """End its processes, by force if need be."""
        left = self.pids()
        for what, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, what)
                    os.kill(pid, signal.SIGCONT)
            until = time.monotonic() + patience
            while left and time.monotonic() < until:
                self.process.poll()
                time.sleep(0.05)
                left = [pid for pid in left if stat(pid)[0] not in "ZX"]
        self.process.poll()

    def get(self, path: str, *, timeout: float = 2.0) -> int:
        """The status of a GET, 0 when there is no answer."""
        return self._ask("GET", path, None, timeout)

    def post(self, path: str, body: str, *, timeout: float = 2.0) -> int:
        """The status of a POST of JSON, 0 when there is no answer."""
        return self._ask("POST", path, body, timeout)

    def _ask(self, method: str, path: str, body: str | None, timeout: float) -> int:
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            asking.request(method, path, body, self.headers | {"Content-Type": "application/json"})
            return asking.getresponse().status
        except OSError:
            return 0
        finally:
            asking.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The server of a command on `SERVER_CORE`, ended on leaving; its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | dict(env or {}), cwd=cwd, stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )  # fmt: skip
    server = Server(name, port, process, log, dict(headers or {}))
    try:
        yield server
    finally:
        server.end()


def await_answer(server: Server, case: Case, *, patience: float = 120.0) -> None:
    """Wait until the server answers a request of the case; `SystemExit` with the end of its log when it does not."""
    until, status = time.monotonic() + patience, 0
    while time.monotonic() < until and server.process.poll() is None:
        status = server.post(case.path, case.bodies[0], timeout=20)
        if status == 200:
            return
        time.sleep(0.1)
    said = server.log.read_text(errors="replace")[-2_000:]
    raise SystemExit(f"{server.name} does not answer {case.path} (status {status}). Its log ends:\n{said}")


def measure(server: Server, case: Case, *, connections: int = 64, seconds: float = 3.0, warm: float = 0.5) -> Measured:
    """Load the server from `CLIENT_CORE`."""
    before = server.spent()
    outcome = ask(load_of(server, case, connections=connections, seconds=seconds, warm=warm))
    after, share = server.spent(), outcome.seconds / (outcome.seconds + warm)
    return Measured(outcome, Spent((after.ran - before.ran) * share, (after.waited - before.waited) * share))


def load_of(
    server: Server,
    case: Case,
    *,
    connections: int,
    seconds: float,
    warm: float = 1.0,
    rate: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """A load for `CLIENT_CORE`; with `headers` from somebody else than usual."""
    return Load(
        port=server.port,
        path=case.path,
        bodies=case.bodies,
        scores=case.scores,
        pattern=case.pattern,
        headers=dict(headers or server.headers),
        connections=connections,
        seconds=seconds,
        warm=warm,
        rate=rate,
        core=CLIENT_CORE,
    )


def ask(load: Load) -> Outcome:
    """Run the load in a process of its own."""
    return finished(started(load))


def started(load: Load, *, nice: int = 0) -> subprocess.Popen[str]:
    """A client that has begun; the nicer gives way to the others on its core."""
    command = ["nice", "-n", str(nice), sys.executable, "-m", "benchmarks.serving_load"]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None
    client.stdin.write(json.dumps(asdict(load)))
    client.stdin.close()
    return client


def finished(client: subprocess.Popen[str]) -> Outcome:
    """What a client that had begun came to."""
    assert client.stdout is not None
    with client.stdout as output:
        said = output.read()
    if client.wait():
        raise SystemExit("The load client failed; its message is above.")
    return Outcome(**json.loads(said))


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; of one that has gone zeros behind an X."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", *["0"] * 50]
