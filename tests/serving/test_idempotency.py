"""Idempotency keys: what counts as a repeat, what it gets, and how much is remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from millrace.errors import RequestError
from serving.idempotency import OVERHEAD, REPLAYED, Repeats
from serving.online.predict import Client, RawHeaders

PATH = "/v1/late/predict"
ROW: dict[str, Any] = {"rows": [{"delay": 1, "far": 0}]}
KIND = (b"content-type", b"x")


@dataclass
class Asking:
    """A client that keeps what it got."""

    gone: bool = False
    got: list[tuple[int, bytes, list[tuple[bytes, bytes]]]] = field(default_factory=list)

    def reply(self, status: int, body: bytes, headers: RawHeaders) -> None:
        self.got.append((status, body, list(headers)))


def repeats(clock: Callable[[], float] = lambda: 0.0, *, room: int = 100_000) -> Repeats:
    return Repeats(room=room, seconds=60, clock=clock)


def asked(
    kept: Repeats, key: bytes = b"k", *, sender: bytes = b"me", content: Sequence[bytes] = (b"x",)
) -> tuple[Asking, Client | None]:
    """A client that asks, and whom to answer."""
    client = Asking()
    return client, kept.first(key, sender, content, client)


def answered(kept: Repeats, key: bytes = b"k", body: bytes = b"1") -> bool:
    """Whether a client that asks is to be answered, which it is, and not from what is kept."""
    _, first = asked(kept, key)
    if first is not None:
        first.reply(200, body, [])
    return first is not None


def test_a_repeat_gets_the_first_answer_and_is_told() -> None:
    kept = repeats()
    client, first = asked(kept)
    assert first is not None
    first.reply(200, b"1", [KIND])
    again, repeat = asked(kept)
    assert (client.got, again.got, repeat) == ([(200, b"1", [KIND])], [(200, b"1", [KIND, REPLAYED])], None)


@pytest.mark.parametrize(("key", "sender"), [(b"l", b"me"), (b"k", b"you")])
def test_another_key_or_sender_is_another_request(key: bytes, sender: bytes) -> None:
    kept = repeats()
    answered(kept)
    assert asked(kept, key, sender=sender)[1] is not None


@pytest.mark.parametrize("other", [(b"y",), (b"", b"x"), (b"x", b"")])
def test_other_content_under_a_key_is_refused(other: tuple[bytes, ...]) -> None:
    kept = repeats()
    asked(kept)
    with pytest.raises(RequestError, match="another request") as refused:
        asked(kept, content=other)
    assert (refused.value.status, refused.value.field) == (422, "Idempotency-Key")


def test_repeats_wait_for_the_first_though_its_client_has_gone() -> None:
    kept = repeats()
    client, first = asked(kept)
    client.gone = True
    waiting = [asked(kept)[0] for _ in range(2)]
    assert first is not None
    assert not first.gone
    first.reply(200, b"1", [])
    assert [one.got for one in waiting] == [[(200, b"1", [REPLAYED])]] * 2


def test_a_failure_is_its_repeats_too_and_is_not_kept() -> None:
    kept = repeats()
    _, first = asked(kept)
    waiting, _ = asked(kept)
    assert first is not None
    first.reply(503, b"too much", [])
    assert waiting.got == [(503, b"too much", [REPLAYED])]
    assert asked(kept, content=(b"y",))[1] is not None


def test_an_answer_is_forgotten_after_its_time() -> None:
    now = [0.0]
    kept, found = repeats(lambda: now[0]), []
    for now[0] in (0.0, 59.9, 60.0):
        found.append(answered(kept))
    assert found == [True, False, True]


def test_the_oldest_go_when_the_room_is_full() -> None:
    kept = repeats(room=3 * (OVERHEAD + 500))
    found = [answered(kept, key, b"1" * 500) for key in (b"a", b"b", b"c", b"d", b"d", b"c", b"b", b"a")]
    assert found == [True, True, True, True, False, False, False, True]


def test_an_answer_that_fills_more_than_the_room_is_not_kept_and_drives_out_no_other() -> None:
    kept = repeats(room=5 * OVERHEAD)
    answered(kept, b"small")
    answered(kept, b"large", b"1" * 6 * OVERHEAD)
    assert (answered(kept, b"small"), answered(kept, b"large")) == (False, True)


def test_without_room_nothing_is_kept() -> None:
    kept = repeats(room=0)
    assert [answered(kept) for _ in range(2)] == [True, True]


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"a b", b"\xff", b"a\x00"])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(RequestError, match="visible ASCII") as refused:
        asked(repeats(), key)
    assert (refused.value.status, refused.value.field) == (422, "Idempotency-Key")


def test_over_http_a_repeat_is_the_same_prediction(client: httpx.Client) -> None:
    first, second = (client.post(PATH, json=ROW, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert client.post(PATH, json=ROW).content != first.content


def test_over_http_repeats_at_once_are_one_prediction(client: httpx.Client) -> None:
    def ask(_: int) -> bytes:
        return client.post(PATH, json=ROW, headers={"Idempotency-Key": "k"}).content

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(64)))) == 1


def test_over_http_a_key_with_another_body_or_type_is_422(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    assert client.post(PATH, content=b'{"rows": []}', headers=headers).status_code == 200
    answer = client.post(PATH, content=b'{"rows":[]}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "Idempotency-Key")
    headers["Content-Type"] = "text/plain"
    assert client.post(PATH, content=b'{"rows": []}', headers=headers).status_code == 422
