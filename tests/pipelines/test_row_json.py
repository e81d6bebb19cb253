"""Rows as JSON and back: every value and every type as it was."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from pipelines.ingest.row_json import read_rows, read_schema, write_rows, write_schema

MOMENT = datetime(2013, 1, 1, 1, 2, 3, 4)  # noqa: DTZ001  # the column gives the zone, or has none

COLUMNS: dict[str, tuple[list[Any], Any]] = {
    "instant": ([MOMENT.replace(tzinfo=UTC), None], pl.Datetime("us", "UTC")),
    "wall clock": ([MOMENT, None], pl.Datetime("us")),
    "zoned": ([MOMENT.replace(tzinfo=UTC), None], pl.Datetime("us", "Europe/Berlin")),
    "milliseconds": ([MOMENT.replace(microsecond=4000), None], pl.Datetime("ms", "UTC")),
    "day": ([date(2013, 1, 1), None], pl.Date),
    "time": ([time(1, 2, 3, 4), None], pl.Time),
    "span": ([timedelta(days=-1, microseconds=1), None], pl.Duration("us")),
    "whole": ([2**63 - 1, None], pl.Int64),
    "unsigned": ([2**64 - 1, None], pl.UInt64),
    "real": ([float("nan"), float("inf"), float("-inf"), 0.1, -0.0, None], pl.Float64),
    "single": ([0.1, float("nan"), None], pl.Float32),
    "exact": ([Decimal("1.50"), None], pl.Decimal(10, 2)),
    "truth": ([True, None], pl.Boolean),
    "text": (['é"\n', "", "NaN", None], pl.String),
    "category": (["a", None], pl.Categorical),
    "choice": (["a", None], pl.Enum(["a", "b"])),
    "bytes": ([b"\x00\xff", None], pl.Binary),
    "list": ([[date(2013, 1, 1), None], [], None], pl.List(pl.Date)),
    "array": ([[1.5, float("nan")], None], pl.Array(pl.Float64, 2)),
    "struct": ([{"a": b"x", "b": None}, None], pl.Struct({"a": pl.Binary, "b": pl.Time})),
    "nothing": ([None, None], pl.Null),
}


@pytest.mark.parametrize("kind", list(COLUMNS))
def test_a_value_of_each_type_survives(kind: str) -> None:
    values, dtype = COLUMNS[kind]
    frame = pl.DataFrame({"value": pl.Series(values, dtype=dtype)})
    back = read_rows(write_rows(frame), read_schema(write_schema(frame.schema)))
    assert_frame_equal(back, frame)


@given(
    dataframes(
        max_cols=4,
        max_size=5,
        allowed_dtypes=[pl.Int64, pl.Float64, pl.String, pl.Boolean, pl.Date, pl.Datetime("us", "UTC"), pl.Binary],
    )
)
def test_any_frame_survives(frame: pl.DataFrame) -> None:
    assert_frame_equal(read_rows(write_rows(frame), read_schema(write_schema(frame.schema))), frame)


def test_a_row_is_valid_json_without_nan() -> None:
    (row,) = write_rows(pl.DataFrame({"a": [float("nan")], "b": [1]}))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(row, parse_constant=refuse) == {"a": "nan", "b": 1}


def test_no_rows_keep_their_columns() -> None:
    frame = pl.DataFrame(schema={"a": pl.Int8, "b": pl.Datetime("us", "UTC")})
    assert_frame_equal(read_rows([], read_schema(write_schema(frame.schema))), frame)
