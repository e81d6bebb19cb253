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
                raise RequestError(
                    422, f"{name} of row {place} must be {_WORDS.get(dtype, dtype)}.", field=f"rows[{place}].{name}"
                ) from error
        values.append(value)
    return values


def _missing(place: int, name: str, dtype: str) -> RequestError:
    return RequestError(
        422,
        f"Row {place} lacks {name}.",
        field=f"rows[{place}].{name}",
        todo=f"Give {name} ({_WORDS.get(dtype, dtype)}, or null), or the features that are computed from it.",
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
