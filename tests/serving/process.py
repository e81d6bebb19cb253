"""The server as the processes that `millrace serve` makes, and clients that put load on it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from millrace.settings import Settings, child_environment
from serving.keys import api_key

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Server:
    """`millrace serve late`: its first process, its port, and what it writes on standard error."""

    process: subprocess.Popen[str]
    url: str
    port: int
    errors: Path

    def workers(self) -> list[psutil.Process]:
        """The processes that the first one has started and that live."""
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout=60)


@contextmanager
def serving(settings: Settings, *options: str, **changed: Any) -> Iterator[Server]:
    """The server of these settings with what is `changed`, ready, until the body ends."""
    settings = settings.model_copy(update={"use_cases": CASES, "port": 0, **changed})
    errors = settings.folder("logs") / "errors.txt"
    with errors.open("a") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "millrace.cli", "serve", "late", *options],
            stdout=subprocess.PIPE, stderr=sink, text=True, env=child_environment(settings),
        )  # fmt: skip
    assert process.stdout is not None
    children: list[psutil.Process] = []
    try:
        line = process.stdout.readline()
        assert api_key(settings) in line, errors.read_text()
        children = psutil.Process(process.pid).children()
        url = line.split()[2].rstrip("/")
        yield Server(process, url, int(url.rpartition(":")[2]), errors)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        psutil.wait_procs(children, timeout=30)  # they see that their parent is gone


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    closes: bool

    def json(self) -> Any:
        return json.loads(self.body)


def question(settings: Settings, rows: int = 1) -> bytes:
    """A prediction request of some equal rows as it goes over the wire."""
    body = json.dumps({"rows": [{"delay": 1.0, "far": 0.0}] * rows}).encode()
    head = (
        "POST /v1/late/predict HTTP/1.1", "host: localhost", f"x-api-key: {api_key(settings)}",
        "content-type: application/json", f"content-length: {len(body)}",
    )  # fmt: skip
    return "\r\n".join((*head, "", "")).encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes) -> Answer:
    """One answer over this connection; raises what breaks it off."""
    writer.write(asked)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    return Answer(int(head.split(b" ", 2)[1]), body, b"connection: close" in head)


@dataclass
class Load:
    """Clients that ask over and over until told to stop; `broken` counts connections that ended without an answer."""

    asked: bytes
    ports: list[int]
    heard: Callable[[Answer], None]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    broken: int = 0

    async def client(self) -> None:
        """Ask the first port, and the next one for good when told to leave, as a load balancer does."""
        ports = list(self.ports)
        while not self.stop.is_set():
            try:
                closes = await self._connection(ports[0])
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
                await asyncio.sleep(0.01)
            else:
                if closes and len(ports) > 1:
                    ports.pop(0)

    async def _connection(self, port: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while not self.stop.is_set():
                answer = await ask(reader, writer, self.asked)
                self.heard(answer)
                if answer.closes:
                    return True
            return False
        finally:
            writer.close()
