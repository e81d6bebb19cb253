"""Packed rows: how the newest feature values of an entity lie in an online store, and what such a store can do.

One entry holds one entity's row of one feature view: its event time, its known time, and all its values in a msgpack
array, in the view's own feature order. Its key begins with the view's *layout* (the name and a digest of keys, features
and types): a view whose schema changes gets fresh entries, while a model that was trained on the old one goes on
reading the old ones. Feast keeps a protobuf per cell instead; reading 18 features of 4 views costs ten times as much.
This module knows neither Feast nor a particular store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

pack = msgspec.msgpack.Encoder().encode
"""A row's values as bytes; datetimes keep their microseconds, NaN stays NaN, None is null."""
_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list)
unpack = _decoder.decode
"""The values again."""


Stored = tuple[int, int, bytes]
"""A row as it is read: event time, known time, packed values."""


class Entry(NamedTuple):
    """One stored row, as a tuple because millions are made. Times are microseconds since 1970 (UTC)."""

    key: bytes
    event: int
    known: int
    row: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a view has been materialized: everything visible at `as_of` in the table's `version` is in the store."""

    as_of: datetime
    version: int


class RowReader(Protocol):
    """What serving needs of an online store."""

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """Event time, known time and packed row of each key, in the keys' order, in one round trip; None if absent.

        Raises `FeatureError` when the store does not answer.
        """

    def close(self) -> None:
        """Release files and connections; the store can be used again afterwards."""


class RowStore(RowReader, Protocol):
    """What an online store must do. One contract test runs on each.

    Of two writes of one key the one with the later event stays, whatever order they come in; of equal events the one
    known later, of equal both the one written last.
    """

    def write(self, entries: Iterable[Entry]) -> int:
        """Write entries in one transaction per call; how many of them now stand in the store."""

    def mark(self, layout: str) -> Mark | None:
        """How far a layout has been materialized; None if never."""

    def set_mark(self, layout: str, mark: Mark) -> None:
        """Remember how far a layout has been materialized."""

    def newest(self, layout: str) -> int | None:
        """The newest event that was noted of a layout, in microseconds; None if none was."""

    def note_newest(self, layout: str, event: int) -> None:
        """Note an event that was written; an older one than is known changes nothing, whoever notes at once."""

    def scan(self, layout: str) -> Iterator[Stored]:
        """Every row of a layout, in no order; rows that are written meanwhile may be among them or not."""

    def drop(self, view: str) -> None:
        """Remove every layout of a view, with its marks and newest events."""


def is_live(row: Stored, at: int, ttl: int | None) -> bool:
    """Whether a row answers at an instant: it had happened, was known, and is not older than the TTL (inclusive).

    All times in microseconds. The offline join decides the same way.
    """
    return row[0] <= at and row[1] <= at and (ttl is None or row[0] >= at - ttl)


def layout(view: str, keys: Sequence[str], features: Sequence[tuple[str, str]]) -> str:
    """The name of a view's layout: the view and a digest of its sorted keys and its (feature, type) pairs in order."""
    text = repr((sorted(keys), list(features)))
    return f"{view}.{sha256(text.encode()).hexdigest()[:8]}"


def entity_key(first: bytes, values: Sequence[Any]) -> bytes:
    """The key of one entity: its layout's `prefix` and the values of its join keys, in the order of their names."""
    return first + pack(values)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def prefix(of: str) -> bytes:
    """What every key of a layout, or of a view's layouts, begins with."""
    return f"{of}:".encode() if "." in of else f"{of}.".encode()


def micros(at: datetime) -> int:
    """An instant as microseconds since 1970; a naive one is read as UTC."""
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - EPOCH) // _MICROSECOND


def instant(at: int) -> datetime:
    """Microseconds since 1970 as an instant."""
    return EPOCH + at * _MICROSECOND
