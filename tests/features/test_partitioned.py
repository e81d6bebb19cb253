"""The partitioned join with its exchanges done in place: it equals the join that has all rows before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import partitioned
from features.asof import FeatureRows, join_asof
from features.partitioned import PartitionedJoin, opened

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
hours = st.integers(0, 12)
names = st.sampled_from(["a", "b", "c", None])
numbers = st.sampled_from([1, 2, None])
Features = list[tuple[str | None, int | None, int, int]]
Asked = list[tuple[str | None, int | None, int | None]]


def at(hour: int | None) -> datetime | None:
    return None if hour is None else START + timedelta(hours=hour)


def feature_rows(values: Features) -> pl.LazyFrame:
    rows = [(name, number, at(event), at(known), place) for place, (name, number, event, known) in enumerate(values)]
    schema = {"name": pl.String, "number": pl.Int64, "event": INSTANT, "known": INSTANT, "value": pl.Int64}
    return pl.LazyFrame(rows, schema=schema, orient="row")


def views(values: Features, ttl: timedelta | None) -> tuple[FeatureRows, ...]:
    """The same rows as features of a name, of a number under another column's name, and of both."""
    rows, name, number = feature_rows(values), {"name": "name"}, {"number": "my_number"}
    keys = [name, number, name | number]
    times = {"event": "event", "created": "known", "ttl": ttl}
    return tuple(
        FeatureRows(rows, key, {"value": f"value_{place}"}, **times)  # type: ignore[arg-type]  # three kinds of values
        for place, key in enumerate(keys)
    )


def frame(asked: Asked) -> pl.DataFrame:
    rows = [(name, number, at(hour), place) for place, (name, number, hour) in enumerate(asked)]
    schema = {"name": pl.String, "my_number": pl.Int32, "t": INSTANT, "place": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def grouped(tables: Iterable[pa.Table], key: str) -> list[pa.Table]:
    """What an exchange does: the records of each key together."""
    whole = pa.concat_tables(tables)
    return [whole.filter(pa.compute.equal(whole[key], value)) for value in whole[key].unique()]


def exchanged(join: PartitionedJoin, blocks: Sequence[int]) -> pl.DataFrame:
    """The join's steps in the order in which the cluster takes them."""
    asked = [partitioned._records(list(join._asked({"block": block}))) for block in blocks]
    offered = [partitioned._records(list(join._offered(one))) for one in join._slices()]
    answers = [join._answered(place) for place in grouped([*asked, *offered], "place")]
    home = grouped([*answers, partitioned.markers(blocks)], "block")
    found = {record["block"]: opened(record["frame"]) for pieces in home for record in join._home(pieces).to_pylist()}
    return pl.concat([found[block] for block in blocks])


@settings(max_examples=150)
@given(
    st.lists(st.tuples(names, numbers, hours, hours), max_size=25),
    st.lists(st.tuples(names, numbers, hours | st.none()), max_size=12),
    st.none() | st.integers(0, 6),
    st.integers(1, 4),
)
def test_equals_the_join_of_one_machine(values: Features, asked: Asked, ttl: int | None, partitions: int) -> None:
    of, rows = views(values, None if ttl is None else timedelta(hours=ttl)), frame(asked)

    def read(block: int, columns: Any) -> pl.DataFrame:
        return rows.slice(block * 5, 5).select(columns or pl.all())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitioned, "SLICE_ROWS", 7)  # several slices a table: ties must keep their order
        found = exchanged(PartitionedJoin(read, "t", of, partitions), [0, 1, 2])
    assert found.equals(join_asof(rows, "t", of))


def test_a_column_that_has_a_features_name_is_replaced() -> None:
    rows = frame([("a", 1, 3)]).with_columns(value_0=pl.lit("old"))
    of = views([("a", 1, 1, 1)], None)[:1]
    found = exchanged(PartitionedJoin(lambda _, columns: rows.select(columns or pl.all()), "t", of, 2), [0])
    assert found.equals(join_asof(rows, "t", of))
