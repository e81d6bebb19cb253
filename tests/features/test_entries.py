"""Rows of a frame as packed entries: the keys that a reader asks for, the times, the values in the layout's order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from features.entries import entries
from features.online_store import entity_key, micros, prefix, unpack

AT = datetime(2024, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
FRAME = pl.DataFrame(
    {
        "value": [1.5, None, float("nan")],
        "shop": ["s1", "s0", "s2"],
        "item": [7, 8, 9],
        "word": ["a", "b", None],
        "happened": [AT, AT + TICK, AT - TICK],
        "written": [AT, AT + 2 * TICK, AT],
    },
    schema_overrides={"happened": pl.Datetime("us", "UTC"), "written": pl.Datetime("ns", "UTC")},
)


def test_each_row_is_an_entry_in_the_frames_order() -> None:
    made = entries(FRAME, "v.12345678", ["item", "shop"], ["word", "value"], event="happened", known="written")
    keys = [entity_key(prefix("v.12345678"), key) for key in ((7, "s1"), (8, "s0"), (9, "s2"))]
    assert [entry.key for entry in made] == keys
    assert [entry.event for entry in made] == [micros(AT), micros(AT) + 1, micros(AT) - 1]
    assert [entry.known for entry in made] == [micros(AT), micros(AT) + 2, micros(AT)]


def test_values_lie_in_the_layouts_order_with_nulls_and_nan() -> None:
    made = entries(FRAME, "v.12345678", ["shop"], ["word", "value"], event="happened", known="happened")
    values = [unpack(entry.row) for entry in made]
    assert values[:2] == [["a", 1.5], ["b", None]]
    assert values[2][0] is None
    assert values[2][1] != values[2][1]


def test_no_rows_are_no_entries() -> None:
    assert entries(FRAME.clear(), "v.12345678", ["shop"], ["value"], event="happened", known="written") == []
