"""Objects and keys of a body, counted without decoding it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.online.tokens import first_twice, objects

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def count(value: Any) -> int:
    """The objects of a value that have no others in them."""
    if isinstance(value, dict):
        return sum(map(count, value.values())) or 1
    return sum(map(count, value)) if isinstance(value, list) else 0


@given(VALUES, st.booleans())
def test_objects_are_counted_and_no_key_of_them_is_twice(value: Any, escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode()
    assert objects(body, tokens=10_000) == count(value)
    assert first_twice(body) == ""


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"a": 1, "a": 2}', "a"),
        (b'{"rows": [{"a": 1}, {"a": 1, "b" : {"c": ":"}, "a":1}]}', "a"),
        (b'{"a": {"b": 1}, "b": 1, "\\u0062": 1}', "b"),
        (b'{"a\\"": "a\\"", "a\\"": 1}', 'a"'),
    ],
)
def test_a_key_that_an_object_has_twice_is_found(body: bytes, name: str) -> None:
    assert first_twice(body) == name


def test_no_more_is_read_than_asked() -> None:
    assert objects(b'""' * 100 + b"{}" * 100, tokens=120) == 10


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 200_000, b"{" + b'"\\' * 200_000, b'"' * 399_999])
def test_texts_that_do_not_end_are_read_once(body: bytes) -> None:
    assert objects(body, tokens=1_000) == 0
