"""Columns of files and databases: times in any ISO form, and the schema's types where nothing is lost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import Source
from millrace.errors import SourceError
from pipelines.ingest.columns import declared_types, fitted, from_values, read_instants, stack, with_times

INSTANT = pl.Datetime("us", "UTC")
NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)),  # noqa: DTZ001  # the zone is added below
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(["T", " "]),
)
def test_every_time_that_python_writes_is_read(naive, minutes, between):
    at = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    texts = pl.Series(["2024-01-01", at.isoformat(between), naive.isoformat(between), None])
    assert read_instants(texts).to_list()[1:] == [at.astimezone(UTC), naive.replace(tzinfo=UTC), None]


@pytest.mark.parametrize("text", ["2024-01-02", "2024-01-02 00:00", "2024-01-02T00:00Z", "2024-01-02T00:00:00.000000Z"])
def test_a_shorter_form_is_read(text):
    assert read_instants(pl.Series([text])).to_list() == [datetime(2024, 1, 2, tzinfo=UTC)]


@pytest.mark.parametrize("text", ["", "soon", "2024", "01/02/2024", "2024-13-01", "2024-01-02 25:00:00"])
def test_what_is_no_time_is_missing(text):
    assert read_instants(pl.Series([text])).to_list() == [None]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([NOON], dtype=pl.Datetime("ns", "UTC")),
        pl.Series([NOON]).dt.convert_time_zone("Asia/Tokyo"),
        pl.Series([NOON]).dt.replace_time_zone(None),
        pl.Series(["2024-01-02T12:00:00Z"]),
    ],
    ids=["nanoseconds", "another zone", "no zone", "text"],
)
def test_a_time_becomes_a_utc_instant_in_microseconds(column):
    rows = pl.DataFrame({"when": column, "known_at": column}).lazy()
    found = with_times("s", rows, "when", "known_at").collect()
    assert found.schema == {"known_at": INSTANT, "event_time": INSTANT}
    assert found["event_time"].to_list() == found["known_at"].to_list() == [NOON]


def test_one_column_may_be_both_times():
    rows = pl.DataFrame({"day": [date(2024, 1, 2)]}).lazy()
    found = with_times("s", rows, "day", "day").collect()
    assert found.rows() == [(NOON.replace(hour=0),) * 2]


def test_a_frame_that_has_its_times_is_left_as_it_is():
    rows = pl.LazyFrame({"event_time": [NOON], "known_at": [NOON]}, schema={"event_time": INSTANT, "known_at": INSTANT})
    assert with_times("s", rows, "event_time", "known_at") is rows


FITS = {
    "whole numbers as fractions": ([1, None], pl.Float64, [1.0, None]),
    "fractions that are whole": ([1.0, None], pl.Int64, [1, None]),
    "narrower numbers": ([1, 2], pl.Int8, [1, 2]),
    "zeros and ones": ([0, 1, None], pl.Boolean, [False, True, None]),
    "decimals": ([Decimal("12.50")], pl.Float64, [12.5]),
    "decimals of a scale": ([Decimal("12.5")], pl.Decimal(10, 2), [Decimal("12.50")]),
    "dates as text": (["2024-01-02", None], pl.Date, [date(2024, 1, 2), None]),
    "times as text": (["2024-01-02T12:00:00Z"], INSTANT, [NOON]),
    "times without a zone": ([NOON.replace(tzinfo=None)], INSTANT, [NOON]),
    "a date as a time": ([date(2024, 1, 2)], INSTANT, [NOON.replace(hour=0)]),
    "no value": ([None, None], pl.Float64, [None, None]),
    "no text": (pl.Series([None], dtype=pl.String), pl.Int64, [None]),
    "a category": (pl.Series(["a"], dtype=pl.Categorical), pl.String, ["a"]),
}


@pytest.mark.parametrize("case", list(FITS))
def test_a_column_takes_the_schemas_type_where_nothing_is_lost(case):
    values, kind, wanted = FITS[case]
    found = fitted(pl.DataFrame({"a": values}), {"a": kind})
    assert (found.schema["a"], found["a"].to_list()) == (kind, wanted)


STAYS = {
    "a fraction": ([1.5], pl.Int64),
    "a number too large": ([300], pl.Int8),
    "a two": ([0, 2], pl.Boolean),
    "a text of a number": (["1"], pl.Int64),
    "a number as text": ([7], pl.String),
    "a text that is no date": (["2024-01-02", "soon"], pl.Date),
    "a time of day as a date": (["2024-01-02 12:00:00"], pl.Date),
    "a whole number too exact for a fraction": ([2**60 + 1], pl.Float64),
}


@pytest.mark.parametrize("case", list(STAYS))
def test_a_column_that_would_lose_something_stays_for_the_validation(case):
    values, kind = STAYS[case]
    frame = pl.DataFrame({"a": values})
    assert fitted(frame, {"a": kind}).equals(frame)


def test_a_decimal_that_the_schema_does_not_name_is_a_fraction():
    assert fitted(pl.DataFrame({"a": [Decimal("1.5")]}), {}).schema == {"a": pl.Float64}


def test_the_schemas_types_come_from_frames_and_models_alike():
    class Model(pa.DataFrameModel):
        a: int

    def types(schema: Any) -> dict[str, Any]:
        return dict(declared_types(Source("s", lambda since, until: pl.DataFrame(), lambda: schema, key=("a",))))

    assert types(Model) == {"a": pl.Int64}
    assert types(pa.DataFrameSchema({"a": pa.Column(pl.Int64), "b": pa.Column()})) == {"a": pl.Int64}


def test_parts_lie_under_each_other_in_the_widest_of_their_numbers():
    parts = [("one", pl.DataFrame({"a": [1], "b": ["x"]})), ("two", pl.DataFrame({"b": [None], "a": [1.5]}))]
    assert stack("s", parts).rows() == [(1.0, "x"), (1.5, None)]


def test_parts_that_differ_in_a_type_are_named():
    parts = [("one", pl.DataFrame({"a": [1]})), ("two", pl.DataFrame({"a": ["x"]}))]
    with pytest.raises(SourceError, match=r"column a .* Int64 \(one\) and String \(two\)"):
        stack("s", parts)


def test_values_of_a_database_become_columns():
    some = UUID(int=7)
    rows = [(1, Decimal("1.5"), some, None), (2.5, Decimal("NaN"), None, None)]
    found = from_values("s", ["number", "price", "id", "nothing"], rows)
    assert found["number"].to_list() == [1.0, 2.5]
    assert str(found["price"].to_list()) == "[1.5, nan]"
    assert found["id"].to_list() == [str(some), None]
    assert found.schema["nothing"] == pl.Null


@pytest.mark.parametrize("values", [(1, "x"), (Decimal("1" * 50),), (True, "x")])
def test_values_without_a_common_type_name_their_column(values):
    with pytest.raises(SourceError, match="The column a of source 's' cannot be read"):
        from_values("s", ["a"], [(value,) for value in values])
