"""What the measuring process is told and what it answers, as msgpack on its standard input and output."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.measure.cost import Cost


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Measure the bundle at `folder`; with 0 `calls`, only open it."""

    folder: str
    public_key: bytes
    rows: list[list[Any]]
    calls: int
    limit_s: float
    threads: int
    powercap: str


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How long the bundle took to its first answer; `seconds` is processor time until then, imports included.

    `cost` is None when it was only to be opened.
    """

    cold_start_ms: float
    seconds: float
    cost: Cost | None = None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The platform's own error: the three parts of a `MillraceError`."""

    what: str
    looked: str
    todo: str
