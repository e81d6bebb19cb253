"""A request's head is bounded before the application sees it, and what is no HTTP gets the one error shape."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from serving.connection import HEAD_BYTES


@pytest.fixture
def wire(stranger: httpx.Client) -> Iterator[socket.socket]:
    """A connection to the started application."""
    assert stranger.base_url.port is not None
    with socket.create_connection((stranger.base_url.host, stranger.base_url.port), timeout=30) as connection:
        yield connection


def answer(wire: socket.socket) -> tuple[int, dict[str, object]]:
    """The status and body of the answer that ends the connection."""
    text = bytearray()
    try:
        while part := wire.recv(65_536):
            text += part
    except ConnectionResetError:  # hung up on while bytes were on their way
        pass
    head, _, body = bytes(text).partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split(b" ", 2)[1]), json.loads(body)


@pytest.mark.parametrize("name", ["GET /{} HTTP/1.1\r\nHost: localhost", "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}"])
def test_a_large_head_in_one_packet_is_431(wire: socket.socket, name: str) -> None:
    wire.sendall(name.format("x" * (HEAD_BYTES + 1)).encode() + b"\r\n\r\n")
    status, body = answer(wire)
    assert status == 431
    assert set(body) == {"error", "request_id"}


def test_a_head_that_never_ends_is_431(wire: socket.socket) -> None:
    wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
    try:
        for number in range(20_000):
            wire.sendall(f"X-{number}: {'x' * 100}\r\n".encode())
    except OSError:  # it hung up
        return
    assert answer(wire)[0] == 431


def test_a_head_of_the_full_size_and_a_large_body_are_fine(wire: socket.socket) -> None:
    padding = "x" * (HEAD_BYTES - 200)
    body = b"x" * 300_000
    head = f"POST /v1/late/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {padding}\r\n"
    wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer(wire)[0] == 401


def test_each_request_of_a_connection_has_a_head_of_its_own(wire: socket.socket) -> None:
    one = f"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: {'x' * (HEAD_BYTES // 2)}\r\n\r\n".encode()
    for _ in range(5):
        wire.sendall(one[:100])
        wire.sendall(one[100:])
        assert wire.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "text", [b"\x16\x03\x01\x02", b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
             b"GET \xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
             b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
             b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_400_in_the_one_shape(wire: socket.socket, text: bytes) -> None:
    wire.sendall(text)
    status, body = answer(wire)
    assert status == 400
    assert body["error"] == {"status": 400, "what": "This is no HTTP request.", "field": "", "todo": ""}
