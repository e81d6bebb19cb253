"""Rows of any columns as JSON texts, and back with every value and type as it was.

JSON has no times, bytes, decimals or NaN: they become texts, and the frame's schema, kept beside the rows, says what
they were. Times keep their microseconds, as everywhere in the lake. It knows nothing of what the rows mean.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from io import BytesIO
from math import isfinite
from typing import Any

import polars as pl

_MICROSECOND = timedelta(microseconds=1)
_SCALARS: dict[Any, Callable[[Any], Any]] = {
    pl.Float32: float,
    pl.Float64: float,
    pl.Datetime: datetime.fromisoformat,
    pl.Date: date.fromisoformat,
    pl.Time: time.fromisoformat,
    pl.Duration: lambda number: number * _MICROSECOND,
    pl.Binary: bytes.fromhex,
    pl.Decimal: Decimal,
}
"""How a value of a type is read from what JSON has of it; the others are in JSON what they are."""


def write_rows(frame: pl.DataFrame) -> list[str]:
    """One JSON object a row, its columns in the frame's order; valid JSON also for NaN and infinities."""
    write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    return [write(_plain(row)) for row in frame.iter_rows(named=True)]


def read_rows(texts: Sequence[str], schema: pl.Schema) -> pl.DataFrame:
    """The frame with this schema whose rows `write_rows` wrote."""
    rows = [json.loads(text) for text in texts]
    columns = {name: [_typed(row[name], dtype) for row in rows] for name, dtype in schema.items()}
    return pl.DataFrame([pl.Series(name, values, schema[name]) for name, values in columns.items()])


def write_schema(schema: pl.Schema) -> str:
    """A schema as text: an empty Arrow file in base64, which knows every type that polars has."""
    file = BytesIO()
    pl.DataFrame(schema=schema).write_ipc(file)
    return b64encode(file.getvalue()).decode()


def read_schema(text: str) -> pl.Schema:
    """The schema that `write_schema` wrote."""
    return pl.read_ipc(BytesIO(b64decode(text))).schema


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case float():
            return value if isfinite(value) else str(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value // _MICROSECOND
        case bytes():
            return value.hex()
        case Decimal():
            return str(value)
    return value


def _typed(value: Any, dtype: pl.DataType) -> Any:
    if value is None:
        return None
    if isinstance(dtype, pl.Struct):
        return {field.name: _typed(value[field.name], _instance(field.dtype)) for field in dtype.fields}
    if isinstance(dtype, pl.List | pl.Array):
        return [_typed(item, _instance(dtype.inner)) for item in value]
    convert = _SCALARS.get(dtype.base_type())
    return value if convert is None else convert(value)


def _instance(dtype: Any) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype  # type: ignore[no-any-return]  # an inner type is either
