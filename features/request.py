"""The columns of a request's rows: each value checked against its declared type, as the offline rows have it.

An error names the field, never its value. This module knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from millrace.errors import RequestError

Row = Mapping[str, Any]
_LACKS = object()


def column(rows: Sequence[Row], name: str, dtype: str, dependents: frozenset[str]) -> list[Any]:
    """One column of the rows, None where a value is null, or absent from a row that gives all its `dependents` itself.

    Raises `RequestError` (422) for a value of another type, or one that is absent though a feature depends on it.
    """
    convert = _CONVERT.get(dtype, _as_is)
    values = []
    for place, row in enumerate(rows):
        value = row.get(name, _LACKS)
        if value is _LACKS:
            if not dependents <= row.keys():
                raise _missing(place, name, dtype)
            value = None
        if value is not None:
            try:
                value = convert(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise wrong_value(name, type_words(dtype), place) from error
        values.append(value)
    return values


def typed_value(value: Any, name: str, dtype: str, place: int) -> Any:
    """One value that is not null as its Feast type has it; `RequestError` (422) for one of another type."""
    try:
        return _CONVERT.get(dtype, _as_is)(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong_value(name, type_words(dtype), place) from error


def wrong_value(name: str, wanted: str, place: int) -> RequestError:
    """The error of a value that is not what is `wanted`, naming its row and column and not the value."""
    return RequestError(422, f"{name} of row {place} must be {wanted}.", field=f"rows[{place}].{name}")


def type_words(dtype: str) -> str:
    """What a Feast type is called in an error: `a whole number`."""
    return _WORDS.get(dtype, dtype)


def _missing(place: int, name: str, dtype: str) -> RequestError:
    return RequestError(
        422,
        f"Row {place} lacks {name}.",
        field=f"rows[{place}].{name}",
        todo=f"Give {name} ({type_words(dtype)}, or null), or the features that are computed from it.",
    )


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _instant(value: Any) -> datetime:
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise TypeError
    return at.astimezone(UTC)


def _as_is(value: Any) -> Any:
    return value


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "String": _string,
    "Bool": _boolean,
    "Int32": _integer,
    "Int64": _integer,
    "Float32": _real,
    "Float64": _real,
    "UnixTimestamp": _instant,
}
_WORDS = {
    "String": "a string",
    "Bool": "true or false",
    "Int32": "a whole number",
    "Int64": "a whole number",
    "Float32": "a number",
    "Float64": "a number",
    "UnixTimestamp": "a time with its offset, such as 2013-04-01T12:00:00Z",
}
