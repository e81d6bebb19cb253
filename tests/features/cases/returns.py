"""A tiny use case for the feature room's tests, and a place on disk for it.

Will an order be returned? Asked two hours before dispatch. Orders go out every 20 minutes from three shops; an outcome
is known two days after dispatch. Nothing is random, and no clock is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from millrace import Candidate, FeatureTable, Label, Population, Source, UseCase
from millrace.lake import Lake
from millrace.settings import Settings
from pipelines.ingest import ingest_source

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LEAD = timedelta(hours=2)
ORDERS = 720
"""Ten days of orders, one every 20 minutes."""


def order_rows(count: int = ORDERS) -> pl.DataFrame:
    """Orders with their outcome: `dispatched` every 20 minutes from START."""
    numbers = range(count)
    return pl.DataFrame(
        {
            "order_id": [f"o{n:04}" for n in numbers],
            "shop": [f"s{n % 3}" for n in numbers],
            "item": [f"i{n * 7 % 5}" for n in numbers],
            "price": [float(n % 11) if n % 13 else None for n in numbers],
            "placed": [START + n * timedelta(minutes=20) - DAY for n in numbers],
            "dispatched": [START + n * timedelta(minutes=20) for n in numbers],
            "returned": [n * 2654435761 % 100 < 30 for n in numbers],
        },
        schema_overrides={"placed": pl.Datetime("us", "UTC"), "dispatched": pl.Datetime("us", "UTC")},
    )


def read_orders(since: datetime, until: datetime) -> pl.DataFrame:
    """What is known of an order a day before it goes out."""
    rows = order_rows().with_columns(event_time=pl.col("dispatched"), known_at=pl.col("dispatched") - DAY)
    rows = rows.filter(pl.col("known_at") > since, pl.col("known_at") <= until)
    return rows.drop("returned", "dispatched")


def read_outcomes(since: datetime, until: datetime) -> pl.DataFrame:
    """Whether it came back, known two days after it went out."""
    rows = order_rows().with_columns(event_time=pl.col("dispatched"), known_at=pl.col("dispatched") + 2 * DAY)
    rows = rows.filter(pl.col("known_at") > since, pl.col("known_at") <= until)
    return rows.select("order_id", "shop", "item", "returned", "event_time", "known_at")


def read_items(since: datetime, until: datetime) -> pl.DataFrame:
    """Plain facts, known long before."""
    known = START - 30 * DAY
    rows = pl.DataFrame({"item": ["i0", "i1", "i2", "i3"], "weight": [1, 2, 3, None]}).with_columns(
        event_time=pl.lit(known).cast(pl.Datetime("us", "UTC")), known_at=pl.lit(known).cast(pl.Datetime("us", "UTC"))
    )
    return rows.filter(pl.col("known_at") > since, pl.col("known_at") <= until)


def orders_schema() -> Any:
    import pandera.polars as pa

    return pa.DataFrameSchema(
        {
            "order_id": pa.Column(pl.String),
            "shop": pa.Column(pl.String, pa.Check.isin(["s0", "s1", "s2"])),
            "item": pa.Column(pl.String),
            "price": pa.Column(pl.Float64, pa.Check.ge(0), nullable=True),
            "placed": pa.Column(pl.Datetime("us", "UTC")),
        }
    )


def outcomes_schema() -> Any:
    import pandera.polars as pa

    return pa.DataFrameSchema({"order_id": pa.Column(pl.String), "returned": pa.Column(pl.Boolean)})


def items_schema() -> Any:
    import pandera.polars as pa

    return pa.DataFrameSchema({"item": pa.Column(pl.String), "weight": pa.Column(pl.Int64, nullable=True)})


orders = Source("orders", read_orders, orders_schema, key=("order_id",))
outcomes = Source("outcomes", read_outcomes, outcomes_schema, key=("order_id",), overlap=timedelta(hours=6))
items = Source("items", read_items, items_schema, key=("item",))
WINDOW = 3 * DAY


def _recent(rows: pl.LazyFrame, entity: list[str], prefix: str) -> pl.LazyFrame:
    """The share of returns among the outcomes known in the last three days, at each time that one became known."""
    return (
        rows.with_columns(event_time=pl.col("known_at"))
        .sort("event_time")
        .rolling("event_time", period=WINDOW, group_by=entity)
        .agg(
            pl.col("returned").cast(pl.Float64).mean().alias(f"{prefix}_returned"),
            pl.len().cast(pl.Int64).alias(f"{prefix}_orders"),
        )
        .with_columns(known_at=pl.col("event_time"))
    )


def build_shops(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    return _recent(tables["outcomes"], ["shop"], "shop")


def build_pairs(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    return _recent(tables["outcomes"], ["shop", "item"], "pair")


def build_items(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    return tables["items"]


shops = FeatureTable("shops", build_shops, (outcomes,), ("shop",), lookback=WINDOW + 2 * DAY)
pairs = FeatureTable("pairs", build_pairs, (outcomes,), ("shop", "item"), lookback=WINDOW + 2 * DAY)
item_facts = FeatureTable("item_facts", build_items, (items,), ("item",))


def order_facts(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    waits = [None if placed is None else placed.hour + placed.minute / 60 for placed in inputs["placed"]]
    heavy = [None if weight is None else weight * 2.5 for weight in inputs["weight"]]
    return {"hour": waits, "shop_code": inputs["shop"], "cost": inputs["price"], "load": heavy}


def feature_repo(source: Callable[[FeatureTable], Any]) -> Sequence[Any]:
    from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView, RequestSource, ValueType
    from feast.types import Float64, Int64, String, UnixTimestamp

    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
    key = {"shop": Field(name="shop", dtype=String), "item": Field(name="item", dtype=String)}
    by_shop = FeatureView(
        name="by_shop",
        entities=[shop],
        ttl=DAY,
        schema=[key["shop"], Field(name="shop_returned", dtype=Float64), Field(name="shop_orders", dtype=Int64)],
        source=source(shops),
    )
    by_pair = FeatureView(
        name="by_pair",
        entities=[shop, item],
        ttl=timedelta(hours=12),
        schema=[*key.values(), Field(name="pair_returned", dtype=Float64), Field(name="pair_orders", dtype=Int64)],
        source=source(pairs),
    )
    facts = FeatureView(
        name="facts",
        entities=[item],
        ttl=timedelta(0),
        schema=[key["item"], Field(name="weight", dtype=Int64)],
        source=source(item_facts),
    )
    on_demand = OnDemandFeatureView(
        name="order",
        mode="python",
        sources=[
            RequestSource(
                name="request",
                schema=[key["shop"], Field(name="price", dtype=Float64), Field(name="placed", dtype=UnixTimestamp)],
            ),
            facts,
        ],
        schema=[
            Field(name="hour", dtype=Float64),
            Field(name="shop_code", dtype=String),
            Field(name="cost", dtype=Float64),
            Field(name="load", dtype=Float64),
        ],
        udf=order_facts,
        udf_string=inspect.getsource(order_facts),
    )
    service = FeatureService(name="returns", features=[by_pair[["pair_returned"]], on_demand, by_shop])
    return [shop, item, by_shop, by_pair, facts, on_demand, service]


use_case = UseCase(
    name="returns",
    question="Will this order be returned? Asked two hours before it goes out.",
    sources=(orders, outcomes, items),
    population=Population(orders, lead=LEAD),
    label=Label(outcomes, "returned", arrives_after=2 * DAY),
    feature_tables=(shops, pairs, item_facts),
    feature_repo=feature_repo,
    on_demand=(order_facts,),
    candidates=(Candidate("none", lambda inputs: None),),
)


@dataclass(frozen=True)
class Place:
    """The use case with a place of its own on disk."""

    use_case: UseCase
    settings: Settings
    lake: Lake

    def ingest(self, as_of: datetime) -> None:
        """Ingest every source up to a moment."""
        for source in self.use_case.sources:
            ingest_source(source, self.lake, self.settings, since=None, as_of=as_of)
