"""The platform's database goes away under a running server, and comes back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from millrace.settings import Settings, read_settings
from serving.keys import api_key

from .conftest import Promote
from .process import serving


class Wire:
    """A port of loopback that leads to another one, until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self.port = 0

    def join(self) -> None:
        """Take connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        for each in [self._listener, *self._open]:
            with suppress(OSError):  # its other side has closed it
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65_536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def settings(tmp_path: Path, needs_postgres: str) -> Settings:
    return read_settings(home=tmp_path / "millrace", database_url=needs_postgres)


@pytest.fixture
def wire(settings: Settings) -> Iterator[Wire]:
    host, _, port = settings.database.rpartition("@")[2].partition("/")[0].partition(":")
    wire = Wire(host, int(port))
    wire.join()
    yield wire
    wire.cut()


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.05)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_serves_goes_on_serving_and_follows_again(
    settings: Settings, promote: Promote, wire: Wire, workers: str
) -> None:
    promote()
    before, _, name = settings.database.rpartition("@")
    through = f"{before}@127.0.0.1:{wire.port}/{name.partition('/')[2]}"
    rows = {"rows": [{"delay": 1, "far": 0}]}
    with (
        serving(settings, "--workers", workers, database_url=through) as server,
        httpx.Client(base_url=server.url, headers={"X-API-Key": api_key(settings)}, timeout=30) as client,
    ):

        def late() -> tuple[int, int, str]:
            ready = client.get("/health/ready")
            model = ready.json()["models"]["late"]
            return ready.status_code, model["version"], model["problem"]

        wire.cut()
        wait_until(lambda: late()[2] != "")
        assert late()[:2] == (200, 1)
        assert "database does not answer" in late()[2]
        promote(2)
        assert client.post("/v1/late/predict", json=rows).json()["version"] == 1
        wire.join()
        wait_until(lambda: late() == (200, 2, ""))
        assert client.post("/v1/late/predict", json=rows).json()["version"] == 2
