"""Runs the server: binds, starts uvicorn, says where it is, and on SIGTERM is not ready, drains and ends.

One process, one event loop (uvloop), one worker. This module knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from millrace.errors import BusyError, MillraceError, SettingsError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.direct import DirectProtocol
from serving.guard import Guard
from serving.keys import api_key

GRACE_SECONDS = 0.5
"""Between SIGTERM and the end of listening: answers say `Connection: close`, so clients leave before the door shuts."""
DRAIN_SECONDS = 30
"""How long a request in flight may take once the server no longer listens."""


def serve(settings: Settings, *use_cases: UseCase, announce: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. `announce` gets the lines that say where and with which key (default: printed).

    Raises `BusyError` when the port is taken and `SettingsError` when the address is not this machine's.
    """
    listener = _bind(settings)
    try:
        app = create_app(settings, use_cases)
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        lines = f"Serving on http://{name}:{port}/ (sign in, or send X-API-Key, with the key {api_key(settings)})\n"
        server = Server(app, started=lambda: (announce or _print)(lines))
        server.run(sockets=[listener])
    finally:
        listener.close()
    if not server.started:
        raise MillraceError("The server did not start.", looked="Its log says why.")


class Server(uvicorn.Server):
    """uvicorn's server that says when it is ready to answer and is not ready before it stops listening."""

    def __init__(self, app: Guard, *, started: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            app, loop="uvloop", http=DirectProtocol, ws="none", lifespan="on", access_log=False, log_config=None,
            server_header=False, date_header=False, timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self._app, self._started = app, started
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if self.started:
            self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM makes the server not ready first, and the process end well; a second one, or Ctrl-C, is at once."""
        if sig == signal.SIGTERM and self._loop is not None and not self._app.state.draining:
            self._app.state.draining = True
            self._loop.call_soon_threadsafe(self._loop.call_later, GRACE_SECONDS, self._stop)
        else:
            self._app.state.draining = True
            super().handle_exit(sig, frame)

    def _stop(self) -> None:
        self.should_exit = True


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"Another program already listens on {where}.", todo="Stop it, or take another port: --port 8101."
            ) from error
        raise SettingsError(
            f"The server cannot listen on {where}: {error.strerror}.", todo="Set MILLRACE_HOST and MILLRACE_PORT."
        ) from error
    return listener


def _print(lines: str) -> None:
    sys.stdout.write(lines)
    sys.stdout.flush()
