"""Runs the server: binds, starts uvicorn, says where it is, and on SIGTERM is not ready, drains and ends.

One process, one event loop (uvloop); several of them are `serving.supervisor`'s business. This module knows nothing of
routes.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from millrace.errors import MillraceError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.direct import DirectProtocol
from serving.guard import Guard
from serving.listening import Announce, announce, announcement, bind
from serving.supervisor import DRAIN_SECONDS

ACCEPTS = 16
"""New connections that are taken in one turn of the event loop."""


def serve(settings: Settings, *use_cases: UseCase, announce: Announce = announce) -> None:
    """Serve until SIGTERM or Ctrl-C. `announce` gets the lines that say where and with which key (default: printed).

    Raises `BusyError` when the port is taken and `SettingsError` when the address is not this machine's.
    """
    with bind(settings) as listener:
        app = create_app(settings, use_cases)
        lines = announcement(settings, listener)
        server = Server(app, started=lambda: announce(lines), leave=settings.leave_seconds)
        server.run(sockets=[listener])
    if not server.started:
        raise MillraceError("The server did not start.", looked="Its log says why.")


class Server(uvicorn.Server):
    """uvicorn's server that says when it is ready to answer and is not ready before it stops listening.

    `leave` are the seconds between SIGTERM and the end of listening: answers say `Connection: close` and readiness 503,
    so clients and load balancers leave before the door shuts.
    """

    def __init__(self, app: Guard, *, started: Callable[[], None] = lambda: None, leave: float = 0.5) -> None:
        config = uvicorn.Config(
            app, loop="uvloop", http=DirectProtocol, ws="none", lifespan="on", access_log=False, log_config=None,
            server_header=False, date_header=False, timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self._app, self._started, self._leave = app, started, leave
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(_repeated(sockets or []))
        self._loop = asyncio.get_running_loop()
        _calm_the_collector()
        if self.started:
            self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM makes the server not ready first, and the process end well; a second one, or Ctrl-C, is at once."""
        if sig == signal.SIGTERM and self._loop is not None and not self._app.state.draining:
            self._app.state.draining = True
            self._loop.call_soon_threadsafe(self._loop.call_later, self._leave, self._stop)
        else:
            self._app.state.draining = True
            super().handle_exit(sig, frame)

    def _stop(self) -> None:
        self.should_exit = True


def _repeated(listeners: list[socket.socket]) -> list[socket.socket]:
    """Each listener several times: the loop takes one new connection of each in a turn, and under load a turn is long,
    so that of one alone new clients would wait for seconds."""
    return [*listeners, *(listener.dup() for listener in listeners for _ in range(ACCEPTS - 1))]


def _calm_the_collector() -> None:
    """What the imports and the models made is no garbage: looking through it stops everything for 0.2 s. Nor are the
    rows of a batch, which are dropped as a whole; requests leave no cycles behind."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
