"""A walk over the file tells weights inside from weights outside, wherever in the graph they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millrace.errors import BundleError
from millrace.onnx_scan import refuse_external_data


def test_a_model_with_its_weights_inside_is_let_through(onnx_model: Callable[..., bytes]) -> None:
    refuse_external_data(onnx_model([0.5, -1.0]))


@pytest.mark.parametrize("place", ["graph", "nested", "function", "attribute"])
def test_weights_outside_are_found_wherever_they_are(onnx_model: Callable[..., bytes], place: str) -> None:
    with pytest.raises(BundleError, match="external data"):
        refuse_external_data(onnx_model([0.5, -1.0], external=place))


def test_a_location_without_a_mark_is_found_too(onnx_model: Callable[..., bytes]) -> None:
    import onnx

    model = onnx.load_model_from_string(onnx_model([0.5, -1.0], external="graph"))
    model.graph.initializer[0].ClearField("data_location")
    with pytest.raises(BundleError, match="external data"):
        refuse_external_data(model.SerializeToString())


def _field(number: int, content: bytes) -> bytes:
    """A field of a nested message, of at most 127 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    "numbers", [b"\x3d\0\0\x80\x3f" * 5, b"\x40\x07\x40\xff\xff\xff\x7f" * 5, b"\x3d2\0j\x0a\x40\x01"]
)
def test_a_tensor_behind_an_attributes_numbers_is_found(numbers: bytes) -> None:
    tensor = _field(5, b"\x70\x01")  # its data_location is external

    def model(attribute: bytes) -> bytes:
        return _field(7, _field(1, _field(5, attribute)))

    refuse_external_data(model(numbers))
    with pytest.raises(BundleError, match="external data"):
        refuse_external_data(model(numbers + tensor + numbers))


@pytest.mark.parametrize("cut", [b"\x3d\0\0\0", b"\x40\xff", b"\x40" + b"\xff" * 10 + b"\x01"])
def test_a_number_cut_short_or_too_long_is_refused(cut: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be parsed"):
        refuse_external_data(_field(7, _field(1, _field(5, b"\x40\x01" + cut))))


def test_a_field_cut_short_is_refused(onnx_model: Callable[..., bytes]) -> None:
    whole = onnx_model([0.5, -1.0])
    for length in range(1, len(whole), 7):
        try:
            refuse_external_data(whole[:length])
        except BundleError:
            continue
        assert length >= whole.rindex(b"logistic"), "a model without its graph was let through"


def test_endless_nesting_is_refused() -> None:
    message = b""
    for _ in range(200):  # a graph with a node with an attribute with a graph …
        for tag in (0x32, 0x2A, 0x0A):
            message = bytes([tag]) + _varint(len(message)) + message
    with pytest.raises(BundleError, match="cannot be parsed"):
        refuse_external_data(b"\x3a" + _varint(len(message)) + message)


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])
