"""Where the server listens: its socket, or one a worker on the same port, and the line that tells people of it."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable

from millrace.errors import BusyError, SettingsError
from millrace.settings import Settings
from serving.keys import api_key

Announce = Callable[[str], None]
"""Takes the lines that say where the server is and with which key."""


def bind(settings: Settings, *, shared: bool = False) -> socket.socket:
    """A socket bound to the settings' address, not listening yet.

    With `shared` others of the same user may bind the same port, and the kernel spreads new connections evenly over
    those of them that listen. Raises `BusyError` when the port is taken and `SettingsError` when the address is not
    this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


def reserve(settings: Settings) -> socket.socket:
    """A socket that keeps the port for workers that `bind` it shared; it never listens, so it gets no connection.

    Raises what `bind` raises. That nobody listens yet is asked first without sharing: a second server of the same user
    would else join the first one's port silently.
    """
    bind(settings).close()
    return bind(settings, shared=True)


def announcement(settings: Settings, listener: socket.socket) -> str:
    """The lines that say where the server is and with which key."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"Serving on http://{name}:{port}/ (sign in, or send X-API-Key, with the key {api_key(settings)})\n"


def announce(lines: str) -> None:
    """Print the lines at once, also into a pipe."""
    sys.stdout.write(lines)
    sys.stdout.flush()
