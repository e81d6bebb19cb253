"""Prefect for the embedded platform: an API server of our own process tree, so that a user starts none.

With `PREFECT_API_URL` set (many machines) that server is used and nothing is started. Otherwise a server without
background services runs on loopback for as long as the command does: ready in 11 s on two cores, against 21-28 s until
Prefect's own temporary server has answered the first flow, and it starts while the heavy libraries are imported.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx

from millrace.errors import MillraceError

_START_TIMEOUT_S = 120.0


class Orchestrator:
    """The Prefect API that this process's flows report to; `ready()` must have returned before the first flow."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._server: subprocess.Popen[bytes] | None = None
        self._url = ""

    def start(self) -> None:
        """Start a server unless one is configured; returns at once."""
        from prefect.settings import get_current_settings

        if get_current_settings().api.url:
            return
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}/api"
        command = ["-m", "prefect", "server", "start", "--no-services", "--no-ui", "--port", str(port)]
        self._server = subprocess.Popen(  # noqa: S603  # our own interpreter, constant arguments
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ready(self) -> None:
        """Wait until the server answers, and send this process's flows to it."""
        if self._server is None:
            return
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _healthy(self._url):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise MillraceError(
                    "Prefect's server did not start.",
                    looked=f"Ran `prefect server start` for up to {_START_TIMEOUT_S:.0f} s; it "
                    + (
                        "is still not answering."
                        if self._server.poll() is None
                        else f"exited with {self._server.poll()}."
                    ),
                    todo="Run `prefect server start` to see why, or set PREFECT_API_URL to a running one.",
                )
            time.sleep(0.1)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        self._stack.enter_context(temporary_settings({PREFECT_API_URL: self._url}))

    def stop(self) -> None:
        """End the server that `start` started."""
        self._stack.close()
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()


@contextmanager
def orchestrated() -> Iterator[Orchestrator]:
    """An orchestrator that is started now and stopped at the end; call `ready()` before the first flow."""
    orchestrator = Orchestrator()
    orchestrator.start()
    try:
        yield orchestrator
    finally:
        orchestrator.stop()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
