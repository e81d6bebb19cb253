"""Whether an ONNX file keeps all of its weights inside: a walk over its protobuf fields, without the onnx package.

A tensor may name any file of the machine as its "external data", which a runtime would then read. Importing onnx to ask
costs 0.8 s and 33 MB in every server; this walk needs neither. It knows the few messages of onnx.proto (IR version 3
and up) through which a tensor can be reached, and nothing of operators or types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from millrace.errors import BundleError

# message → {field number → message of that field}: every way to a TensorProto.
_NESTED: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64
_NUMBERS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f])*+", re.DOTALL)
"""A run of an attribute's `floats` (field 7) and `ints` (field 8). A tree ensemble is little else, and to walk them one
by one held the interpreter for 40 of the 50 ms that a server takes to open a model."""


def refuse_external_data(model: bytes) -> None:
    """Raise `BundleError` when a tensor's values lie outside the file, or the bytes are no ONNX model at all."""
    try:
        has_graph = any(number == 7 for number, _, _ in _fields(memoryview(model)))
        outside = _has_external_data(memoryview(model), "Model", 0)
    except (IndexError, ValueError) as error:
        raise BundleError("The bundle's model.onnx is not an ONNX model: it cannot be parsed.") from error
    if not has_graph:
        raise BundleError("The bundle's model.onnx is not an ONNX model: it holds no graph.")
    if outside:
        raise BundleError(
            "The bundle's model.onnx keeps weights outside itself (ONNX external data), which is refused.",
            todo="Export it again with all weights inside the file.",
        )


def _has_external_data(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("messages are nested too deeply")
    nested = _NESTED.get(kind, {})
    for number, wire, value in _fields(message, _NUMBERS if kind == "Attribute" else None):
        if kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            return True
        if number in nested:
            if wire != _BYTES or not isinstance(value, memoryview):
                raise ValueError("a message is expected here")
            if _has_external_data(value, nested[number], depth + 1):
                return True
    return False


def _fields(
    message: memoryview, without: re.Pattern[bytes] | None = None
) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, varint or bytes) of each field; fixed-width values are given as bytes.

    Runs of fields that match `without` are passed over.
    """
    position, end = 0, len(message)
    while position < end:
        if without is not None and (run := without.match(message, position)) and run.end() > position:
            position = run.end()
            continue
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == _VARINT:
            number, position = _varint(message, position)
            yield tag >> 3, wire, number
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("groups are not part of ONNX")
        if position + size > end:
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, wire, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
