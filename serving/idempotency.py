"""Idempotency keys: a request that is sent again under its key gets the first one's answer, not another prediction.

Answers are kept in this process, the oldest going first when they fill their room. So of several workers each knows
only what it answered itself: a repeat over the same connection is recognised always, one that reaches another worker is
answered anew, which costs a second row in the prediction log. Errors are not kept: what failed may be tried again. This
module knows nothing of models, and what makes two requests the same is for the caller to say.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from millrace.errors import RequestError

if TYPE_CHECKING:
    from serving.online.predict import Client, RawHeaders

REPLAYED = (b"idempotent-replayed", b"true")
"""The header that a repeated answer has beside its own."""
FIELD = "Idempotency-Key"
OVERHEAD = 1_000
"""Bytes that a kept answer takes beside its body, about."""
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


@dataclass(slots=True, eq=False)
class _Kept:
    """A request under a key, answered or about to be: who waits with the first. It is forgotten at `until`."""

    content: bytes
    until: float
    waiting: list[Client] = field(default_factory=list)
    answer: tuple[int, bytes, RawHeaders] | None = None
    size: int = OVERHEAD


class Repeats:
    """The answers of the last `seconds`, at most `room` bytes of them; used from one event loop."""

    def __init__(self, *, room: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._room, self._seconds, self._clock = room, seconds, clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._size = 0

    def first(self, key: bytes, sender: bytes, content: Sequence[bytes], client: Client) -> Client | None:
        """Who is to be answered in place of `client`, if `sender` sends this the first time under this key; None for a
        repeat: its client gets what the first one gets, at once or with it.

        Raises `RequestError` (422) for a key that came with other content, or is no key.
        """
        if not _KEY.fullmatch(key):
            raise RequestError(422, "The key must be 1 to 255 visible ASCII characters.", field=FIELD)
        self._forget()
        name, digest = _digest((sender, key)), _digest(content)
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = _Kept(digest, self._clock() + self._seconds)
            self._size += kept.size
            return _First(self, name, kept, client)
        if kept.content != digest:
            raise RequestError(
                422, "This key came with another request.", field=FIELD, todo="Send a new key with a new request."
            )
        if kept.answer is None:
            kept.waiting.append(client)
        else:
            _replay(client, kept.answer)
        return None

    def settle(self, name: bytes, kept: _Kept, answer: tuple[int, bytes, RawHeaders]) -> None:
        """Keep an answer, unless it is an error, and give it to those that wait."""
        waiting, kept.waiting, kept.answer = kept.waiting, [], answer
        if self._kept.get(name) is kept:
            self._size += len(answer[1])
            kept.size += len(answer[1])
            if answer[0] != 200 or kept.size > self._room:  # too large alone: no reason to forget the others
                self._drop(name, kept)
        self._forget()
        for client in waiting:
            _replay(client, answer)

    def _forget(self) -> None:
        """What is too old, and the oldest beyond the room. All are kept equally long, so the first is the oldest."""
        now = self._clock()
        while self._kept:
            name, oldest = next(iter(self._kept.items()))
            if oldest.until > now and self._size <= self._room:
                return
            self._drop(name, oldest)

    def _drop(self, name: bytes, kept: _Kept) -> None:
        del self._kept[name]
        self._size -= kept.size


class _First:
    """The client of a first request: what it gets is kept for its repeats, so it waits though nobody else may."""

    __slots__ = ("_client", "_kept", "_name", "_repeats")
    gone = False

    def __init__(self, repeats: Repeats, name: bytes, kept: _Kept, client: Client) -> None:
        self._repeats, self._name, self._kept, self._client = repeats, name, kept, client

    def reply(self, status: int, body: bytes, headers: RawHeaders) -> None:
        self._client.reply(status, body, headers)
        self._repeats.settle(self._name, self._kept, (status, body, headers))


def _replay(client: Client, answer: tuple[int, bytes, RawHeaders]) -> None:
    status, body, headers = answer
    client.reply(status, body, [*headers, REPLAYED])


def _digest(parts: Sequence[bytes]) -> bytes:
    """Of the parts one by one, so that none can run into the next."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
