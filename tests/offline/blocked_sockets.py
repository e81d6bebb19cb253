"""No way out: any socket call of this process that leaves the machine raises, and is written to a file.

Unix sockets and loopback pass. Python's own sockets are covered, in this process and, through `environment()`, in every
Python process below it. Native code that opens sockets by itself (uvloop, Rust, C) is out of reach here:
`python tests/offline COMMAND` adds a network namespace of its own, in which the kernel does the counting.
Knows nothing of Millrace.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import json
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOG_VARIABLE = "BLOCKED_SOCKETS_LOG"
_FOLDER = Path(__file__).resolve().parent
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_DATAGRAM_EVENTS = ("socket.sendto", "socket.sendmsg")
_LOOKUP_EVENTS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_log: Path | None = None


class BlockedSocketError(OSError):
    """A socket call that would have left the machine."""


@dataclass(frozen=True)
class Attempt:
    """One blocked call: the process, what it called with which address, and the innermost frames that led there."""

    pid: int
    process: str
    call: str
    address: str
    frames: tuple[str, ...]


def is_local(host: object) -> bool:
    """Whether a host name or numeric address stays on this machine; an empty one means "any address of mine"."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name is None or name in {"", "localhost", socket.gethostname()}:
        return True
    address = _numeric(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def install(log: Path) -> None:
    """Block this process for good (an audit hook cannot be taken out) and append each attempt to `log`."""
    global _log
    first, _log = _log is None, log
    if not first:
        return
    sys.addaudithook(_audit)
    for method in ("connect", "connect_ex"):
        setattr(socket.socket, method, _checked(method, getattr(socket.socket, method)))


def environment(log: Path, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what makes every Python process started with it block itself at its start."""
    paths = [str(_FOLDER), *filter(None, [base.get("PYTHONPATH")])]
    return {**base, LOG_VARIABLE: str(log), "PYTHONPATH": os.pathsep.join(paths)}


def attempts(log: Path) -> list[Attempt]:
    """Every attempt of every process that wrote to `log`, oldest first."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [Attempt(**{**json.loads(line), "frames": tuple(json.loads(line)["frames"])}) for line in lines]


def _numeric(name: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _LOOKUP_EVENTS:
        # A numeric address is no look-up; whoever connects to it is caught there.
        if not is_local(arguments[0]) and _numeric(arguments[0]) is None:
            _block(event, arguments[0])
    elif event in _DATAGRAM_EVENTS or event == "socket.connect":
        sock, address = arguments[0], arguments[1]
        if sock.family in _INTERNET and address is not None and not is_local(address[0]):
            _block(event, address)


def _checked(method: str, original: Any) -> Any:
    """CPython resolves the name that `connect` is given before it raises the audit event: look at it first."""

    @functools.wraps(original)
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in _INTERNET and not is_local(address[0]):
            _block(f"socket.{method}", address)
        return original(self, address)

    return connect


def _block(call: str, address: object) -> None:
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()[:-2]]
    attempt = Attempt(os.getpid(), " ".join(sys.orig_argv)[:300], call, repr(address), tuple(frames[-25:]))
    if _log is not None:
        line = (json.dumps(asdict(attempt)) + "\n").encode()
        handle = os.open(_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
    raise BlockedSocketError(errno.ENETUNREACH, f"{call} to {address!r} is blocked: nothing may leave this machine")
