"""The guard of `tests/offline`: what it lets pass, what it stops, and that processes below inherit it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import blocked_sockets
import pytest

OFFLINE = Path(__file__).parent / "offline"
# TEST-NET-3 of RFC 5737 and the reserved `.invalid` name of RFC 2606: nothing answers there even without the guard.
OUTSIDE = "203.0.113.7"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "attempts.jsonl"


def run(code: str, log: Path) -> subprocess.CompletedProcess[str]:
    environment = blocked_sockets.environment(log, os.environ)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def test_loopback_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_unix_socket_passes(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "", None, "0.0.0.0", b"localhost"])
def test_local_names_are_local(name: object) -> None:
    assert blocked_sockets.is_local(name)


@pytest.mark.parametrize("name", [OUTSIDE, "10.0.0.1", "2001:db8::1", "example.invalid", "localhost.example.invalid"])
def test_other_names_are_not_local(name: object) -> None:
    assert not blocked_sockets.is_local(name)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("socket.connect", f"import socket; socket.create_connection(('{OUTSIDE}', 9), timeout=5)"),
        ("socket.connect", "import socket; socket.socket().connect(('example.invalid', 9))"),
        ("socket.connect_ex", f"import socket; socket.socket().connect_ex(('{OUTSIDE}', 9))"),
        ("socket.sendto", f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{OUTSIDE}', 9))"),
        ("socket.getaddrinfo", "import urllib.request; urllib.request.urlopen('http://example.invalid')"),
        ("socket.gethostbyname", "import socket; socket.gethostbyname('example.invalid')"),
        ("socket.getaddrinfo", "import httpx; httpx.get('http://example.invalid')"),
        (
            "socket.getaddrinfo",
            "import asyncio\nasync def go():\n await asyncio.open_connection('example.invalid', 9)\nasyncio.run(go())",
        ),
    ],
)
def test_every_way_out_raises_and_is_logged(call: str, code: str, log: Path) -> None:
    result = run(code, log)
    assert result.returncode != 0
    assert "nothing may leave this machine" in result.stderr
    assert [attempt.call for attempt in blocked_sockets.attempts(log)] == [call]


def test_a_process_below_a_process_inherits_the_guard(log: Path) -> None:
    inner = f"import socket; socket.create_connection(('{OUTSIDE}', 9))"
    run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])", log)
    assert len(blocked_sockets.attempts(log)) == 1


def test_a_swallowed_attempt_is_logged_with_where_it_came_from(log: Path) -> None:
    result = run(f"import socket\ntry: socket.create_connection(('{OUTSIDE}', 9))\nexcept OSError: pass", log)
    assert result.returncode == 0
    (attempt,) = blocked_sockets.attempts(log)
    assert OUTSIDE in attempt.address
    assert any(frame.startswith("<string>") for frame in attempt.frames)


def offline(code: str, log: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, blocked_sockets.LOG_VARIABLE: str(log)}
    command = [sys.executable, str(OFFLINE), sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_offline_command_passes_when_nothing_tries_to_get_out(log: Path) -> None:
    connect = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    result = offline(connect, log)
    assert (result.returncode, "0 outbound attempts" in result.stderr) == (0, True)


def test_offline_command_fails_on_a_swallowed_attempt(log: Path) -> None:
    result = offline(f"import socket\ntry: socket.create_connection(('{OUTSIDE}', 9))\nexcept OSError: pass", log)
    assert (result.returncode, "1 outbound attempts" in result.stderr) == (97, True)


def test_offline_command_counts_what_native_code_tries(log: Path) -> None:
    # libc's own resolver, past every hook of Python's.
    native = "import ctypes; ctypes.CDLL(None).gethostbyname(b'example.invalid')"
    result = offline(native, log)
    if "not counted by the kernel" in result.stderr:
        pytest.skip("this kernel does not let us make a network namespace")
    assert (result.returncode, "0 outbound attempts by Python, 0 packets" in result.stderr) == (97, False)


def test_offline_command_hands_on_the_exit_status(log: Path) -> None:
    assert offline("raise SystemExit(5)", log).returncode == 5
