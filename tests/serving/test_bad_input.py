"""What must not get in, byte for byte against a running server: its status, the field it names, nothing echoed.

The bytes go over a plain socket, so that no client corrects them first.
"""

from __future__ import annotations

import gzip
import json
import math
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from millrace.db import Database
from millrace.settings import read_settings
from serving.app import create_app
from serving.keys import api_key

from .conftest import NAME, NOW, FakeReader, client_of, late_use_case, promoter

PATH = f"/v1/{NAME}/predict"
SECRET = "hUnTeR2"
"""In every body that can have it; no answer may."""
GOOD = b'{"rows": [{"carrier": "UA", "distance": 200}]}'
SCORE = 1 / (1 + math.exp(-(0.5 - 0.2)))


@dataclass(frozen=True)
class Answer:
    """What came back; `body` is empty when it is no JSON."""

    status: int
    headers: str
    body: dict[str, Any]

    @property
    def error(self) -> dict[str, Any]:
        """The one shape; under /v2 it stands beside a sentence."""
        found: dict[str, Any] = self.body.get("detail") or self.body["error"]
        return found

    @property
    def field(self) -> str:
        return str(self.error["field"])


@dataclass(frozen=True)
class Wire:
    """A server by its port, asked over one fresh connection each."""

    port: int
    key: str

    def send(
        self, body: bytes, *, method: str = "POST", path: str = PATH, headers: Mapping[str, str | None] | None = None
    ) -> Answer:
        """The answer to exactly these bytes; a header that is None is left out."""
        own = {
            "Host": "127.0.0.1",
            "X-API-Key": self.key,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        told = {name: value for name, value in (own | dict(headers or {})).items() if value is not None}
        head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
        return self.exchange("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    def exchange(self, request: bytes) -> Answer:
        """Send while reading: a server that refuses early hangs up before it has everything."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            sender = threading.Thread(target=_send, args=(connection, request))
            sender.start()
            received = b"".join(_pieces(connection))
            sender.join()
        head, _, body = received.partition(b"\r\n\r\n")
        is_json = b"application/json" in head
        return Answer(int(head.split(b" ", 2)[1]), head.decode("latin-1").lower(), json.loads(body) if is_json else {})


def _send(connection: socket.socket, request: bytes) -> None:
    try:
        connection.sendall(request)
    except OSError:
        return


def _pieces(connection: socket.socket) -> Iterator[bytes]:
    try:
        while piece := connection.recv(65_536):
            yield piece
    except ConnectionResetError:
        return


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One server for all of this module."""
    settings = read_settings(home=tmp_path_factory.mktemp("bad_input"))
    db = Database.open(settings)
    promoter(settings, db)()
    reader = FakeReader()
    app = create_app(settings, [late_use_case()], clock=lambda: NOW, reader_of=lambda *_: reader)
    with client_of(app, settings) as client:
        yield Wire(client.base_url.port or 0, api_key(settings))
    db.close()


def rows(*texts: str) -> bytes:
    return f'{{"rows": [{",".join(texts)}]}}'.encode()


def one(delay: str, rest: str = "") -> bytes:
    """A row whose delay is this text."""
    return rows(f'{{"delay": {delay}, "far": 0, "carrier": "{SECRET}"{rest}}}')


BODIES: dict[str, tuple[bytes, int, str]] = {
    "NaN": (one("NaN"), 400, "body"),
    "Infinity": (one("Infinity"), 400, "body"),
    "-Infinity": (one("-Infinity"), 400, "body"),
    "1e400": (one("1e400"), 422, "rows[0].delay"),
    "beyond float32": (one("1e39"), 422, "rows[0].delay"),
    "a million digits": (one("1" * 1_000_000), 422, "rows[0].delay"),
    "a string for a number": (one(f'"{SECRET}"'), 422, "rows[0].delay"),
    "a number in a string": (one('"1"'), 422, "rows[0].delay"),
    "true for a number": (one("true"), 422, "rows[0].delay"),
    "a list for a number": (one("[1]"), 422, "rows[0].delay"),
    "a number for a text": (rows('{"carrier": 7, "distance": 0}'), 422, "rows[0].carrier"),
    "2^70": (one("0", f', "trip": {2**70}'), 422, "rows[0].trip"),
    "-2^70": (one("0", f', "trip": {-(2**70)}'), 422, "rows[0].trip"),
    "a lone surrogate": (rows(f'{{"carrier": "{SECRET}\\ud800", "distance": 0}}'), 400, "body"),
    "an escaped NUL": (rows(f'{{"carrier": "{SECRET}\\u0000", "distance": 0}}'), 422, "rows[0].carrier"),
    "a NUL": (rows(f'{{"carrier": "{SECRET}\0", "distance": 0}}'), 400, "body"),
    "a long text": (rows(f'{{"carrier": "{SECRET * 200}", "distance": 0}}'), 422, "rows[0].carrier"),
    "a key twice": (one("1", ', "delay": 2'), 422, "delay"),
    "rows twice": (b'{"rows": [], "rows": [{"delay": 1, "far": 0}]}', 422, "rows"),
    "rows 300,000 times": (b"{" + b",".join([b'"rows":[]'] * 300_000) + b"}", 422, "rows"),
    "a key 300,000 times": (one("1", ', "delay": 1' * 300_000), 422, "delay"),
    "a key twice, once escaped": (one("1", ', "del\\u0061y": 2'), 422, "delay"),
    "an unknown feature": (one("1", ', "late": 1'), 422, "rows[0].late"),
    "an unknown feature of an odd name": (one("1", f', "{SECRET} <b>": 1'), 422, "rows[0]"),
    "an unknown member": (b'{"rows": [], "late": true}', 422, "late"),
    "a missing feature": (rows('{"delay": 1}'), 422, "rows[0].distance"),
    "a missing key in the second row": (rows('{"delay": 1, "far": 0}', '{"far": 1}'), 422, "rows[1].carrier"),
    "no rows": (b"{}", 422, "rows"),
    "rows that are no list": (f'{{"rows": "{SECRET}"}}'.encode(), 422, "rows"),
    "a row that is no object": (rows(f'"{SECRET}"'), 422, "rows[0]"),
    "no object": (f'"{SECRET}"'.encode(), 422, "body"),
    "a time without a zone": (b'{"rows": [], "at": "2013-01-01T00:00:00"}', 422, "at"),
    "a time that is none": (f'{{"rows": [], "at": "{SECRET}"}}'.encode(), 422, "at"),
    "a time far away": (b'{"rows": [], "at": "9999-12-31T00:00:00Z"}', 422, "at"),
    "lists nested 100,000 deep": (b"[" * 100_000, 422, "body"),
    "lists nested in a value": (one("[" * 100_000), 422, "rows[0].delay"),
    "objects nested 100,000 deep": (b'{"rows":' * 100_000, 422, "rows"),
    "bad UTF-8": (rows(f'{{"carrier": "{SECRET}@", "distance": 0}}').replace(b"@", b"\xff\xfe"), 400, "body"),
    "an overlong encoding": (rows('{"carrier": "@", "distance": 0}').replace(b"@", b"\xc0\xaf"), 400, "body"),
    "UTF-16": (GOOD.decode().encode("utf-16"), 400, "body"),
    "a byte-order mark": (b"\xef\xbb\xbf" + GOOD, 400, "body"),
    "trailing garbage": (GOOD + SECRET.encode(), 400, "body"),
    "a second document": (GOOD + GOOD, 400, "body"),
    "a body cut short": (GOOD[:-1], 400, "body"),
    "a comment": (GOOD + b"// " + SECRET.encode(), 400, "body"),
    "single quotes": (GOOD.replace(b'"', b"'"), 400, "body"),
    "nothing": (b"", 400, "body"),
    "1,001 rows": (rows(*['{"delay": 1, "far": 0}'] * 1_001), 413, "rows"),
    "1,000,000 empty rows": (rows(*["{}"] * 1_000_000), 413, "rows"),
    "1,000,000 rows": (rows(*['{"delay": 1, "far": 0}'] * 1_000_000), 413, "body"),
    "100 MB": (b'{"rows": "' + SECRET.encode() * 14_300_000, 413, "body"),
}


def checked(answer: Answer, status: int, field: str) -> None:
    """In the one shape, naming the field and repeating nothing."""
    assert (answer.status, answer.field) == (status, field), answer.body
    assert set(answer.body) - {"detail"} == {"error", "request_id"}
    assert set(answer.error) == {"status", "what", "field", "todo"}
    assert answer.error["status"] == status
    told = json.dumps(answer.body) + answer.headers
    assert SECRET not in told
    assert SECRET.lower() not in told


@pytest.mark.parametrize(("body", "status", "field"), BODIES.values(), ids=BODIES.keys())
def test_a_bad_body_is_refused_by_field_and_not_repeated(wire: Wire, body: bytes, status: int, field: str) -> None:
    checked(wire.send(body), status, field)


@pytest.mark.parametrize("name", ["1,001 rows", "1,000,000 empty rows", "1,000,000 rows", "100 MB"])
def test_too_much_is_told_where_to_go(wire: Wire, name: str) -> None:
    assert "`millrace score`" in wire.send(BODIES[name][0]).body["error"]["todo"]


def test_bad_input_of_every_kind_changes_nobody_elses_answer(wire: Wire) -> None:
    ended, found = threading.Event(), list[Answer]()

    def ask() -> None:
        while not ended.is_set():
            found.append(wire.send(GOOD))

    bystanders = [threading.Thread(target=ask) for _ in range(2)]
    for bystander in bystanders:
        bystander.start()
    for body, status, _ in BODIES.values():
        assert wire.send(body).status == status
    ended.set()
    for bystander in bystanders:
        bystander.join()
    assert len(found) > 10
    for answer in found:
        assert answer.status == 200
        (row,) = answer.body["predictions"]
        assert (row["score"], row["flags"]) == (pytest.approx(SCORE, abs=1e-6), [])


def test_an_unknown_entity_is_flagged_and_no_error(wire: Wire) -> None:
    answer = wire.send(rows(f'{{"carrier": "{SECRET}", "distance": 0}}'))
    assert answer.status == 200
    assert answer.body["predictions"][0]["flags"] == ["missing:carrier_view"]


def test_no_rows_are_an_empty_answer(wire: Wire) -> None:
    answer = wire.send(b'{"rows": []}')
    assert (answer.status, answer.body["predictions"]) == (200, [])


def test_100_mb_are_refused_before_they_are_sent(wire: Wire) -> None:
    checked(wire.send(b"", headers={"Content-Length": "100000000"}), 413, "body")


@pytest.mark.parametrize("length", ["99999999999999999999999", "+46", "4 6", "-1", "0x2e", "46, 46"])
def test_an_odd_length_is_refused(wire: Wire, length: str) -> None:
    assert wire.send(GOOD, headers={"Content-Length": length}).status in (400, 413)


def test_a_gzip_bomb_is_not_unpacked(wire: Wire) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    checked(wire.send(bomb, headers={"Content-Encoding": "gzip"}), 415, "Content-Encoding")
    checked(wire.send(bomb), 400, "body")


def chunked(pieces: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


UNSIZED = {"Content-Length": None, "Transfer-Encoding": "chunked"}


def test_a_body_without_a_length_is_read_up_to_the_limit(wire: Wire) -> None:
    pieces = [GOOD[place : place + 1] for place in range(len(GOOD))]
    assert wire.send(chunked(pieces), headers=UNSIZED).status == 200
    checked(wire.send(chunked([SECRET.encode() * 10_000] * 100), headers=UNSIZED), 413, "body")


def test_a_body_with_two_lengths_is_refused(wire: Wire) -> None:
    smuggled = wire.send(chunked([GOOD]), headers={"Transfer-Encoding": "chunked"})
    assert smuggled.status == 400


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", f"a/{SECRET}"]
)
def test_another_content_type_is_refused(wire: Wire, kind: str) -> None:
    checked(wire.send(GOOD, headers={"Content-Type": kind}), 415, "Content-Type")


@pytest.mark.parametrize("host", [SECRET, f"127.0.0.1@{SECRET}", f"127.0.0.1.{SECRET}", f"{SECRET}:8100", "", None])
def test_an_odd_host_is_refused(wire: Wire, host: str | None) -> None:
    checked(wire.send(GOOD, headers={"Host": host}), 400, "Host")


NAMES = [
    "../../etc",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc",
    "..%5c..",
    "late%00",
    "late%0d%0aX: y",
    "%ff",
    "late;x",
    "system-health",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("method", "end"), [("POST", "predict"), ("GET", "contract")])
def test_a_use_case_that_is_none_is_404(wire: Wire, name: str, method: str, end: str) -> None:
    answer = wire.send(GOOD, method=method, path=f"/v1/{name.replace(' ', '%20')}/{end}")
    assert answer.status == 404
    assert "root:" not in json.dumps(answer.body)


@pytest.mark.parametrize(
    "path", ["/v1/system-health/predict", "/v2/models/system-health/infer", "/v2/models/system-health"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_model_named_like_an_open_route_needs_a_key(wire: Wire, path: str, method: str) -> None:
    checked(wire.send(GOOD, method=method, path=path, headers={"X-API-Key": None}), 401, "X-API-Key")


def test_an_idempotency_key_with_another_body_is_refused(wire: Wire) -> None:
    headers = {"Idempotency-Key": SECRET}
    assert wire.send(GOOD, headers=headers).status == 200
    checked(wire.send(b'{"rows": []}', headers=headers), 422, "Idempotency-Key")
