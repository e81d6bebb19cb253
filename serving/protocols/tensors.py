"""Tensors of the Open Inference Protocol ↔ plain rows: from JSON (flat or nested) and from raw little-endian bytes.

A column of a request is one tensor of shape [rows] or [rows, 1], an array column one of [rows, size]. Shape, datatype
and length are compared before anything is made of the data, so a shape costs nothing. In JSON a missing value is null,
in bytes NaN; a BYTES element has no missing value, an empty one is an empty text. Whether a value fits its column is
for the decoder of our own rows to say. This module knows nothing of HTTP or models.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from millrace.errors import RequestError
from serving.online.bodies import ColumnType, Numbers
from serving.protocols.bodies import Scalar, decode, refuse_more_rows

_INTEGERS = {f"{sign}INT{bits}": f"<{sign.lower() or 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_REALS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_DTYPES = {name: np.dtype(code) for name, code in (_INTEGERS | _REALS).items()}
"""The datatypes that numbers come in; BOOL and BYTES are the others."""
_ELEMENTS: Mapping[str, Any] = (
    dict.fromkeys(_INTEGERS, int | None)
    | dict.fromkeys(_REALS, float | None)
    | {"BOOL": bool | None, "BYTES": str | None}
)
_DECODERS: Mapping[tuple[str, bool], msgspec.json.Decoder[list[Any]]] = {
    (name, nested): msgspec.json.Decoder(list[list[kind] if nested else kind])  # type: ignore[valid-type, misc]
    for name, kind in _ELEMENTS.items()
    for nested in (False, True)
}
"""Of flat and of nested data."""
_MAX_LISTS = 100_000
"""Most nested lists of texts that are read; no more rows than that can be asked for."""
_TAKEN: Mapping[str, Sequence[str]] = {
    "number": (*_REALS, *_INTEGERS),
    "integer": tuple(_INTEGERS),
    "text": ("BYTES",),
    "instant": ("BYTES",),
    "flag": ("BOOL",),
    "key": ("BYTES", *_INTEGERS),
}
"""The datatypes that a column takes."""


class Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An input of a request, its data not decoded yet. Of its parameters only `binary_data_size` is read, as the
    protocol allows."""

    name: str
    shape: list[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Scalar] = {}


_DECODER = msgspec.json.Decoder(Tensor)


def read_rows(
    inputs: Sequence[bytes], raw: bytes, columns: Mapping[str, ColumnType], *, max_rows: int
) -> tuple[list[dict[str, Any]], int]:
    """The rows that these inputs, each its JSON, are the columns of, and how many keys that JSON has at least; `raw` is
    what follows the JSON: their binary data, in order.

    Raises `RequestError`: 413 too many rows; 400 raw data that ends too early or too late; 422 anything else, naming
    the input by its place.
    """
    found: dict[str, list[Any]] = {}
    offset, keys, rows = 0, 0, None
    for place, one in enumerate(inputs):
        where = f"inputs[{place}]"
        tensor = decode(one, _DECODER, where)
        keys += 3 + bool(tensor.data) + parameter_keys(tensor.parameters)
        column = columns.get(tensor.name)
        if column is None or tensor.name in found:
            what = "The model has no input of this name." if column is None else "This input is given twice."
            raise RequestError(422, what, field=f"{where}.name", todo="See the model's metadata for its inputs.")
        rows = _rows(tensor, column, rows, where)
        refuse_more_rows(rows, max_rows, f"{where}.shape")
        _check_datatype(tensor, column, where)
        found[tensor.name], offset = _values(tensor, raw, offset, column, where)
    if offset != len(raw):
        raise RequestError(400, "The body has more data than its inputs.", field="body")
    if rows is None:
        raise RequestError(422, "The request has no inputs.", field="inputs")
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)], keys


def parameter_keys(parameters: Mapping[str, Scalar]) -> int:
    """The keys that parameters take in JSON; at least so many, as empty ones may not be there."""
    return 1 + len(parameters) if parameters else 0


def to_bytes(datatype: str, values: Sequence[Any]) -> bytes:
    """Values of an output as raw data; BYTES elements, given as texts, each after their length."""
    if datatype != "BYTES":
        return np.asarray(values, dtype=_DTYPES[datatype]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(chain.from_iterable((struct.pack("<I", len(one)), one) for one in encoded))


def _rows(tensor: Tensor, column: ColumnType, rows: int | None, where: str) -> int:
    """How many rows the tensor has, if its shape is one that the column can have and that of the other inputs."""
    shape = tensor.shape
    fits = shape[1:] == [column.size] if isinstance(column, Numbers) else shape[1:] in ([], [1])
    if not shape or not fits:
        wanted = f"[rows, {column.size}]" if isinstance(column, Numbers) else "[rows] or [rows, 1]"
        raise RequestError(422, f"This input's shape must be {wanted}.", field=f"{where}.shape")
    if rows is not None and shape[0] != rows:
        raise RequestError(422, "All inputs must have as many rows as the first one.", field=f"{where}.shape")
    return shape[0]


def _check_datatype(tensor: Tensor, column: ColumnType, where: str) -> None:
    taken = _TAKEN["number" if isinstance(column, Numbers) else column]
    if tensor.datatype not in taken:
        raise RequestError(422, f"This input's datatype must be {' or '.join(taken)}.", field=f"{where}.datatype")


def _values(tensor: Tensor, raw: bytes, offset: int, column: ColumnType, where: str) -> tuple[list[Any], int]:
    """The column's values, a row each, and where the raw data of the next input begins."""
    rows, width = tensor.shape[0], column.size if isinstance(column, Numbers) else 1
    size = _binary_size(tensor, where)
    if size is None:
        values = _from_json(tensor, rows, width, where)
    elif size > len(raw) - offset:
        raise RequestError(400, "The body ends before this input's data.", field=where)
    else:
        values = _from_bytes(tensor.datatype, raw[offset : offset + size], rows * width, where)
        offset += size
    return _arrays(values, width) if width > 1 else values, offset


def _binary_size(tensor: Tensor, where: str) -> int | None:
    """The bytes of the tensor's raw data; None when its data stands in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (not tensor.data):
        what = "An input has either data or a binary_data_size, and shared memory is not taken."
        raise RequestError(422, what, field=f"{where}.data")
    if size is not None and (type(size) is not int or size < 0):
        field = f"{where}.parameters.binary_data_size"
        raise RequestError(422, "The size must be a number of bytes.", field=field)
    return None if size is None else int(size)


def _from_json(tensor: Tensor, rows: int, width: int, where: str) -> list[Any]:
    """The elements, flat and each of the datatype."""
    text, field = bytes(tensor.data), f"{where}.data"
    wrong = RequestError(422, f"The data must be {rows * width:,} values, as the shape says.", field=field)
    nested = text[1:].lstrip()[:1] == b"["
    if (tensor.datatype != "BYTES" and text.count(b",") > rows * width) or (nested and text.count(b"[") > _MAX_LISTS):
        raise wrong  # before anything is made of so much
    values = decode(text, _DECODERS[tensor.datatype, nested], field)
    if nested:
        inner = tensor.shape[1] if len(tensor.shape) == 2 else 0
        if any(len(one) != inner for one in values):
            raise wrong
        values = list(chain.from_iterable(values))
    if len(values) != rows * width:
        raise wrong
    if tensor.datatype in _INTEGERS:
        limits, given = np.iinfo(_DTYPES[tensor.datatype]), [value for value in values if value is not None]
        if given and not limits.min <= min(given) <= max(given) <= limits.max:
            raise RequestError(422, f"A value is no {tensor.datatype}.", field=f"{where}.data")
    return values


def _from_bytes(datatype: str, raw: bytes, elements: int, where: str) -> list[Any]:
    if datatype == "BYTES":
        return _texts(raw, elements, where)
    dtype = np.dtype("u1") if datatype == "BOOL" else _DTYPES[datatype]
    if len(raw) != elements * dtype.itemsize:
        what = f"{elements:,} elements of {datatype} are {elements * dtype.itemsize:,} bytes."
        raise RequestError(422, what, field=f"{where}.parameters.binary_data_size")
    numbers = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        if elements and numbers.max() > 1:
            raise RequestError(422, "A byte of BOOL is 0 or 1.", field=where)
        return [bool(number) for number in numbers.tolist()]
    values: list[Any] = numbers.tolist()
    if dtype.kind == "f" and np.isnan(numbers).any():
        return [value if value == value else None for value in values]  # only NaN differs from itself
    return values


def _texts(raw: bytes, elements: int, where: str) -> list[Any]:
    """The elements of BYTES: each four bytes of length, then as many of UTF-8."""
    values, offset = list[Any](), 0
    for place in range(elements):
        start = offset + 4
        offset = start + int.from_bytes(raw[offset:start], "little")
        if start > len(raw) or offset > len(raw):
            raise RequestError(422, "The data ends within an element.", field=where)
        try:
            values.append(raw[start:offset].decode())
        except UnicodeDecodeError:
            raise RequestError(422, f"Element {place} is not UTF-8.", field=where) from None
    if offset != len(raw):
        raise RequestError(422, "The data has more elements than the shape says.", field=where)
    return values


def _arrays(values: Sequence[Any], size: int) -> list[Any]:
    return [values[start : start + size] for start in range(0, len(values), size)]
