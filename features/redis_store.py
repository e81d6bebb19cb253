"""Packed rows in Redis: the online store of many machines, one string value an entity and view, read with one MGET.

A value is the event time and the known time as two big-endian doubles (microseconds are whole numbers far below 2^53),
then the packed row. A script compares them on the server, so that the newest event wins however many write at once.
This module knows nothing of Feast.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from features.online_store import Entry, Mark, Stored, batches, instant, micros, prefix
from millrace.errors import FeatureError

if TYPE_CHECKING:
    from redis import Redis

_TIMES = struct.Struct(">dd")
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


class RedisRows:
    """The rows below one key prefix, connected at first use. Any number of threads and processes may share them."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url, self._namespace = url, namespace.encode() + b":"
        self._client: Redis | None = None

    def write(self, entries: Iterable[Entry]) -> int:
        client = self._connected()
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
        client, namespace = self._connected(), self._namespace
        values: list[bytes | None] = self._guard(lambda: client.mget([namespace + key for key in keys]))
        return [None if value is None else _split(value) for value in values]

    def mark(self, layout: str) -> Mark | None:
        client = self._connected()
        value: bytes | None = self._guard(lambda: client.hget(self._marks, layout))
        if value is None:
            return None
        as_of, version = value.split()
        return Mark(instant(int(as_of)), int(version))

    def set_mark(self, layout: str, mark: Mark) -> None:
        client = self._connected()
        self._guard(lambda: client.hset(self._marks, layout, f"{micros(mark.as_of)} {mark.version}"))

    def drop(self, view: str) -> None:
        client = self._connected()
        pattern = (self._namespace + prefix(view)).decode().translate(
            {ord(sign): f"\\{sign}" for sign in "[]?*^\\"}
        ) + "*"
        for keys in batches(client.scan_iter(match=pattern, count=1000), _CHUNK):
            client.unlink(*keys)
        names: list[bytes] = client.hkeys(self._marks)  # type: ignore[assignment]  # bytes: nothing decodes them
        layouts = [name for name in names if name.startswith(f"{view}.".encode())]
        if layouts:
            client.hdel(self._marks, *layouts)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def _marks(self) -> bytes:
        return self._namespace + b"marks"

    def _connected(self) -> Redis:
        if self._client is None:
            from redis import Redis

            self._client = Redis.from_url(self._url, socket_connect_timeout=5)
        return self._client

    def _guard(self, call: Any) -> Any:
        """Run a call; what Redis says becomes an error that names the place without its password."""
        from redis.exceptions import RedisError

        try:
            return call()
        except RedisError as error:
            place = self._url.rsplit("@", 1)[-1].removeprefix("redis://")
            raise FeatureError(
                f"The online store in Redis does not answer: {error}.",
                looked=f"It was sought at {place}.",
                todo="Start it, or set MILLRACE_REDIS_URL; MILLRACE_ONLINE_STORE=sqlite needs no server.",
            ) from error


def _split(value: bytes) -> Stored:
    event, known = _TIMES.unpack_from(value)
    return int(event), int(known), value[16:]
