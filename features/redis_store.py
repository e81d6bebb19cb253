"""Packed rows in Redis: the online store of many machines, one string value an entity and view, read with one MGET.

A value is the event time and the known time as two big-endian doubles (microseconds are whole numbers far below 2^53),
then the packed row. A script compares them on the server, so that the newest event wins however many write at once.
This module knows nothing of Feast.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from features.online_store import Entry, Mark, Stored, batches, instant, micros, prefix
from millrace.errors import FeatureError, first_line

if TYPE_CHECKING:
    from redis import Redis

_TIMES = struct.Struct(">dd")
_times = _TIMES.unpack_from
_WRITE = """
local written = 0
for i, key in ipairs(KEYS) do
  local old = redis.call('GETRANGE', key, 0, 15)
  local keep = false
  if #old == 16 then
    local event, known = struct.unpack('>dd', old)
    local new_event, new_known = struct.unpack('>dd', ARGV[i])
    keep = event > new_event or (event == new_event and known > new_known)
  end
  if not keep then
    redis.call('SET', key, ARGV[i])
    written = written + 1
  end
end
return written
"""
_CHUNK = 500
"""Keys in one script call: a call of 500 holds the server for about a millisecond."""
_CALLS = 20
"""Script calls in one pipeline."""
PATIENCE = 2.0
"""Seconds that a connection or an answer is waited for; a pipeline takes some 40 ms. A call is tried again only when
its connection had been closed, as idle ones are, so it fails within two seconds of Redis falling silent."""


class RedisRows:
    """The rows below one key prefix, connected at first use. Any number of threads and processes may share them."""

    def __init__(self, url: str, namespace: str, *, patience: float = PATIENCE) -> None:
        self._url, self._namespace, self._patience = url, namespace.encode() + b":", patience
        self._client: Redis | None = None

    def write(self, entries: Iterable[Entry]) -> int:
        client = self.client
        script = client.register_script(_WRITE)
        written = 0
        for chunks in batches(batches(entries, _CHUNK), _CALLS):
            with client.pipeline(transaction=False) as pipeline:
                for chunk in chunks:
                    keys = [self._namespace + entry.key for entry in chunk]
                    script(
                        keys, [_TIMES.pack(entry.event, entry.known) + entry.row for entry in chunk], client=pipeline
                    )
                written += sum(self._guard(pipeline.execute))
        return written

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        if not keys:
            return []
        client, namespace = self.client, self._namespace
        values: list[bytes | None] = self._guard(lambda: client.mget([namespace + key for key in keys]))
        return list(map(_split, values))

    def mark(self, layout: str) -> Mark | None:
        client = self.client
        value: bytes | None = self._guard(lambda: client.hget(self._marks, layout))
        if value is None:
            return None
        as_of, version = value.split()
        return Mark(instant(int(as_of)), int(version))

    def set_mark(self, layout: str, mark: Mark) -> None:
        client = self.client
        self._guard(lambda: client.hset(self._marks, layout, f"{micros(mark.as_of)} {mark.version}"))

    def newest(self, layout: str) -> int | None:
        client = self.client
        event: float | None = self._guard(lambda: client.zscore(self._newest, layout))
        return None if event is None else int(event)

    def note_newest(self, layout: str, event: int) -> None:
        client = self.client
        self._guard(lambda: client.zadd(self._newest, {layout: event}, gt=True))

    def scan(self, layout: str) -> Iterator[Stored]:
        client = self.client
        for keys in self._keys(prefix(layout)):
            values: list[bytes | None] = self._guard(partial(client.mget, keys))
            yield from filter(None, map(_split, values))

    def drop(self, view: str) -> None:
        client = self.client
        for keys in self._keys(prefix(view)):
            self._guard(partial(client.unlink, *keys))
        for names, forget in (
            (self._guard(lambda: client.hkeys(self._marks)), partial(client.hdel, self._marks)),
            (self._guard(lambda: client.zrange(self._newest, 0, -1)), partial(client.zrem, self._newest)),
        ):
            layouts = [name for name in names if name.startswith(f"{view}.".encode())]
            if layouts:
                self._guard(partial(forget, *layouts))

    def _keys(self, first: bytes) -> Iterator[list[bytes]]:
        """The keys that begin with `first`, in lists; a key may come twice while others are written."""
        client, literal = self.client, {ord(sign): f"\\{sign}" for sign in "[]?*^\\"}
        pattern, cursor = (self._namespace + first).decode().translate(literal) + "*", 0
        while True:
            cursor, keys = self._guard(partial(client.scan, cursor, match=pattern, count=1000))
            if keys:
                yield keys
            if not cursor:
                return

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def _marks(self) -> bytes:
        return self._namespace + b"marks"

    @property
    def _newest(self) -> bytes:
        return self._namespace + b"newest"

    @property
    def client(self) -> Redis:
        """The connection pool's client, made at first use."""
        if self._client is None:
            from redis import Redis, exceptions
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            self._client = Redis.from_url(
                self._url,
                socket_connect_timeout=self._patience,
                socket_timeout=self._patience,
                retry=Retry(NoBackoff(), 1, (exceptions.ConnectionError,)),
            )
        return self._client

    def _guard(self, call: Callable[[], Any]) -> Any:
        """Run a call; what Redis says becomes an error that names the place without its password."""
        from redis.exceptions import RedisError

        try:
            return call()
        except RedisError as error:
            place = self._url.rsplit("@", 1)[-1].removeprefix("redis://")
            raise FeatureError(
                f"The online store in Redis does not answer: {first_line(error)}.",
                looked=f"It was sought at {place}.",
                todo="Start it, or set MILLRACE_REDIS_URL; MILLRACE_ONLINE_STORE=sqlite needs no server.",
            ) from error


def _split(value: bytes | None) -> Stored | None:
    if value is None:
        return None
    event, known = _times(value)
    return int(event), int(known), value[16:]
