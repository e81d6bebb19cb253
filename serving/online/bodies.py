"""What a predict body may hold: the types of columns, the struct that a body decodes to, and what a decoder overlooks.

This module knows columns and JSON, nothing of models or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from millrace.errors import RequestError

MAX_TEXT = 1_000
"""Most characters of one text value."""
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_FLOAT32 = 3.4028234e38
_TYPES: Mapping[str, Any] = {
    "number": Annotated[float, Meta(ge=-_FLOAT32, le=_FLOAT32)],
    "integer": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "text": Annotated[str, Meta(max_length=MAX_TEXT)],
    "flag": bool,
    "instant": Annotated[datetime, Meta(tz=True)],
    "key": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Meta(max_length=MAX_TEXT)],
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """The type of a column that holds an array of `size` numbers, each a float32 or null."""

    size: int

    def __str__(self) -> str:
        return f"number[{self.size}]"


ColumnType = Literal["number", "integer", "text", "flag", "instant", "key"] | Numbers
"""What a column of a row may hold (or null): a float32, an int64, a text, true/false, an ISO time with its zone,
either a text or an integer, or an array of numbers."""

_GAPS = (b" :", b"\t:", b"\n:", b"\r:")


def body_type(columns: Mapping[str, ColumnType], classes: bool, required: int = 0) -> Any:
    """The struct of a whole body, whose rows must have the first `required` columns.

    The row's fields have invented names, since columns need not be identifiers.
    """
    names = {f"c{position}": name for position, name in enumerate(columns)}
    fields: list[Any] = [(field, _type(columns[name]) | None) for field, name in list(names.items())[:required]]
    fields += [
        (field, _type(columns[name]) | None | UnsetType, UNSET) for field, name in list(names.items())[required:]
    ]
    row: Any = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, gc=False)
    body: list[Any] = [
        ("rows", list[row]),
        ("at", _TYPES["instant"] | None | UnsetType, UNSET),
        ("features", bool | UnsetType, UNSET),
    ]
    if classes:
        body.append(("scores", bool | UnsetType, UNSET))
    return msgspec.defstruct("Body", body, forbid_unknown_fields=True)


def _type(column: ColumnType) -> Any:
    if not isinstance(column, Numbers):
        return _TYPES[column]
    number: Any = _TYPES["number"] | None
    array: Any = list.__class_getitem__(number)
    return Annotated[array, Meta(min_length=column.size, max_length=column.size)]


def has_no_more_keys(body: bytes, keys: int) -> bool:
    """Whether a body of which `keys` were decoded surely has no more of them: the decoder keeps the last of two equal
    keys silently.

    Every key is followed by a colon, so as many colons are proof. Where texts have some as well, as times do, those
    right behind a quotation mark are counted, if no colon has white space before it.
    """
    if body.count(b":") == keys:
        return True
    return body.count(b'":') == keys and not any(gap in body for gap in _GAPS)


def may_have_nul(body: bytes) -> bool:
    """Whether a text of this body may have a NUL, which JSON can only write escaped. Most bodies escape nothing, and
    one character is found twenty times as fast as six."""
    return b"\\" in body and b"\\u0000" in body


def instant_of(at: Any, field: str = "at") -> datetime | None:
    """A decoded time in UTC; None for one that is null or not given. Raises `RequestError` (422) naming `field` for one
    before 1900 or from 2200 on."""
    if at is UNSET or at is None:
        return None
    if not _EARLIEST <= at < _LATEST:
        raise RequestError(422, "The time must lie between 1900 and 2200.", field=field)
    instant: datetime = at.astimezone(UTC)
    return instant
