"""Whether a safetensors file is one, byte for byte: a check of its header, without the safetensors package or torch.

The layout (the format's own specification): eight bytes with the header's length (little-endian), the header as JSON
(name → dtype, shape, data_offsets; `__metadata__` of texts), then the values. Every byte after the header belongs to
exactly one tensor. It knows nothing of networks: whether the tensors fit one is the engine's business.
"""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec

from millrace.errors import BundleError

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_LONGEST_HEADER = 4_000_000
"""Bytes of JSON: room for some 40,000 tensors."""


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def check_safetensors(content: bytes) -> None:
    """Raise `BundleError` when `content` is not a whole safetensors file, or holds bytes that belong to no tensor."""
    problem = _problem(content)
    if problem:
        raise BundleError(f"The bundle's model.safetensors is not a safetensors file: {problem}.")


def _problem(content: bytes) -> str:
    if len(content) < 8:
        return "it is shorter than a header"
    size = int.from_bytes(content[:8], "little")
    if size > min(_LONGEST_HEADER, len(content) - 8):
        return "its header is longer than it may be"
    try:
        header = msgspec.json.decode(content[8 : 8 + size], type=dict[str, Any])
        header.pop("__metadata__", None)
        tensors = msgspec.convert(header, dict[str, _Tensor])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return f"its header cannot be read ({error})"
    if not tensors:
        return "it holds no tensor"
    return _misplaced(tensors, len(content) - 8 - size)


def _misplaced(tensors: dict[str, _Tensor], size: int) -> str:
    """What is wrong with where the tensors lie in `size` bytes of values: they follow each other without a gap."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        first, end = tensor.data_offsets
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            return f"{name!r} is of the unknown type {tensor.dtype!r}"
        if first != position or min(tensor.shape, default=0) < 0 or end - first != prod(tensor.shape) * bits // 8:
            return f"{name!r} does not lie where its shape says"
        position = end
    return "" if position == size else "it holds bytes that belong to no tensor"
