"""The short way of a prediction: whatever the request looks like on the wire, it is answered as on the long way."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import socket
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from millrace.settings import Settings
from serving.guard import Guard
from serving.keys import api_key
from serving.online.predict import Predict
from serving.run import Server

from .conftest import NAME, client_of

PATH = f"/v1/{NAME}/predict"


def body_of(*delays: float) -> bytes:
    return json.dumps({"rows": [{"delay": delay, "far": 0} for delay in delays]}).encode()


def request(settings: Settings, body: bytes, *extra: str, version: str = "1.1", length: bool = True) -> bytes:
    lines = [f"POST {PATH} HTTP/{version}", "Host: localhost", f"X-API-Key: {api_key(settings)}", *extra]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def line(client: httpx.Client) -> Iterator[socket.socket]:
    """An open connection to the server."""
    with closing(socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20)) as line:
        yield line


def read_answers(line: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """So many whole answers, as status, headers, body."""
    found, data = [], b""
    while len(found) < count:
        head, gap, rest = data.partition(b"\r\n\r\n")
        if gap:
            first, *lines = head.decode().split("\r\n")
            headers = dict(text.split(": ", 1) for text in lines)
            length = int(headers["content-length"])
            if len(rest) >= length:
                found.append((int(first.split()[1]), headers, rest[:length]))
                data = rest[length:]
                continue
        data += (more := line.recv(65_536))
        assert more, f"the server closed the connection after {data!r}"
    return found


def scores(body: bytes) -> list[float]:
    return [row["score"] for row in json.loads(body)["predictions"]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_pipelined_requests_are_answered_in_their_order(line: socket.socket, settings: Settings) -> None:
    line.sendall(b"".join(request(settings, body_of(delay)) for delay in (0.0, 1.0, 2.0, 3.0)))
    answers = read_answers(line, 4)
    assert [status for status, *_ in answers] == [200] * 4
    assert [scores(body)[0] for *_, body in answers] == pytest.approx([sigmoid(x) for x in (0, 1, 2, 3)], abs=1e-6)


def test_a_body_may_come_in_pieces(line: socket.socket, settings: Settings) -> None:
    whole = request(settings, body_of(1.0, 2.0))
    for start in range(0, len(whole), 7):
        line.sendall(whole[start : start + 7])
    ((status, _, body),) = read_answers(line, 1)
    assert (status, len(scores(body))) == (200, 2)


@pytest.mark.parametrize("rows", [1, 1_000])
def test_a_plain_request_needs_no_task_however_large(
    line: socket.socket, settings: Settings, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(Predict, "__call__", None)  # the long way
    line.sendall(request(settings, body_of(*[0.123456789] * rows)))
    ((status, _, body),) = read_answers(line, 1)
    assert (status, len(scores(body))) == (200, rows)


def test_a_chunked_body_and_one_that_awaits_100_are_answered(line: socket.socket, settings: Settings) -> None:
    body = body_of(1.0)
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    line.sendall(request(settings, b"", "Transfer-Encoding: chunked", length=False) + chunk)
    assert read_answers(line, 1)[0][0] == 200
    line.sendall(request(settings, body, "Expect: 100-continue"))
    assert line.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert read_answers(line, 1)[0][0] == 200


@pytest.mark.parametrize(("version", "header"), [("1.0", "Accept: */*"), ("1.1", "Connection: close")])
def test_a_client_that_wants_it_has_its_connection_closed(
    line: socket.socket, settings: Settings, version: str, header: str
) -> None:
    line.sendall(request(settings, body_of(1.0), header, version=version))
    ((status, headers, _),) = read_answers(line, 1)
    assert (status, headers["connection"]) == (200, "close")
    assert line.recv(1) == b""


@pytest.mark.parametrize("body", [body_of(1.0), b"{", b'{"rows": [{"delay": "no", "far": 0}]}', b'{"rows": []}'])
def test_both_ways_answer_alike(line: socket.socket, settings: Settings, body: bytes) -> None:
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    line.sendall(request(settings, body, "X-Request-Id: one"))
    (short,) = read_answers(line, 1)
    line.sendall(request(settings, b"", "X-Request-Id: one", "Transfer-Encoding: chunked", length=False) + chunk)
    (long,) = read_answers(line, 1)
    ids = {"id"}
    assert (short[0], short[1]) == (long[0], long[1])
    told = [json.loads(answer[2]) for answer in (short, long)]
    for answer in told:
        answer["predictions"] = [
            {name: value for name, value in row.items() if name not in ids} for row in answer.get("predictions", [])
        ]
    assert told[0] == told[1]


def test_a_stranger_is_refused_on_the_short_way_too(line: socket.socket, settings: Settings) -> None:
    line.sendall(request(settings, body_of(1.0)).replace(api_key(settings).encode(), b"wrong"))
    line.sendall(request(settings, body_of(1.0)))
    assert [status for status, *_ in read_answers(line, 2)] == [401, 200]


def test_a_client_that_leaves_before_its_answer_harms_nobody(
    client: httpx.Client, settings: Settings, line: socket.socket
) -> None:
    for _ in range(20):
        with closing(socket.create_connection((client.base_url.host, client.base_url.port or 0))) as leaving:
            leaving.sendall(request(settings, body_of(*[1.0] * 500)))
    line.sendall(request(settings, body_of(1.0)))
    assert read_answers(line, 1)[0][0] == 200


def test_the_stages_of_a_request_are_all_of_its_time(client: httpx.Client) -> None:
    answer = client.post(PATH, content=body_of(1.0), headers={"X-Trace": "1"})
    stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(stages) == ["receive", "parse", "queue", "features", "model", "log", "answers", "reply"]
    assert all(float(ms) >= 0 for ms in stages.values())
    assert "server-timing" not in client.post(PATH, content=body_of(1.0)).headers


def test_an_idle_connection_is_closed_and_a_used_one_is_not(app: Guard, settings: Settings) -> None:
    server = Server(app)
    server.config.timeout_keep_alive = 1

    async def use() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            for _ in range(4):  # used for longer than the limit
                writer.write(request(settings, body_of(1.0)))
                assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
                await reader.readuntil(b"]}]}")
                await asyncio.sleep(0.4)
            assert await reader.read() == b""  # left alone, the server ends it
            writer.close()
            server.should_exit = True
            await serving

    asyncio.run(use())


def test_of_ten_thousand_requests_each_gets_its_own_row_back(app: Guard, settings: Settings) -> None:
    """64 connections at once, so that many share a batch."""

    async def ask(port: int, first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, 10_000, 64):
            delay = number / 2_000 - 2.5
            writer.write(request(settings, body_of(delay)))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert scores(await reader.readexactly(length)) == pytest.approx([sigmoid(delay)], abs=1e-6)
        writer.close()

    async def ask_all(port: int) -> None:
        await asyncio.gather(*(ask(port, first) for first in range(64)))

    with client_of(app, settings) as client:
        asyncio.run(ask_all(client.base_url.port or 0))


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [(body_of(1.0), "", 200), (b"{", "", 400), (b'{"rows": [{"delay": "x"}]}', "", 422), (body_of(1.0), "wrong", 401)],
)
def test_an_answer_leaves_nothing_for_the_collector(
    line: socket.socket, settings: Settings, body: bytes, key: str, status: int
) -> None:
    """Its passes over what refusals left stopped everybody for 5 ms, five times a second."""
    asked = request(settings, body).replace(api_key(settings).encode(), key.encode() or api_key(settings).encode())
    line.sendall(asked)
    read_answers(line, 1)
    gc.collect()
    gc.disable()
    try:
        for _ in range(8):
            line.sendall(asked)
            assert read_answers(line, 1)[0][0] == status
        assert gc.collect() < 8
    finally:
        gc.enable()
