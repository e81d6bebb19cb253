"""Will a taxi trip be late? Synthetic trips every 20 minutes; a zone's lateness of the last day foretells the next.

`FIRST` is the first trip; what a trip is depends on its number only, so that every read gives the same rows.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from millrace import (
    Budget,
    Candidate,
    FeatureTable,
    Label,
    Monitor,
    Population,
    Retrain,
    Source,
    Training,
    UseCase,
    at_least,
    at_most,
)

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
EVERY = timedelta(minutes=20)
ZONES = 4


def trips(since: datetime, until: datetime, ahead: timedelta) -> pl.DataFrame:
    """The trips that are known in (since, until], `ahead` of their time."""
    number = pl.int_range(0, 72 * 60, eager=True).alias("number")
    noise = (pl.col("number") * 2654435761 % 1000) / 1000
    zone = pl.col("number") * 7 % ZONES
    share = 0.1 + 0.2 * ((zone + pl.col("number") // 720) % ZONES)
    frame = number.to_frame().with_columns(
        trip=pl.format("T{}", "number"),
        zone=pl.format("Z{}", zone),
        hour=(pl.col("number") // 3 % 24).cast(pl.Int64),
        late=noise < share,
        event_time=pl.lit(FIRST) + pl.col("number") * EVERY,
    )
    frame = frame.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
    frame = frame.with_columns(known_at=pl.col("event_time") - ahead)
    return frame.filter(pl.col("known_at") > since, pl.col("known_at") <= until)


def schema(**types: Any) -> Any:
    import pandera.polars as pa

    times = {name: pl.Datetime("us", "UTC") for name in ("event_time", "known_at")}
    return pa.DataFrameSchema({name: pa.Column(kind) for name, kind in (types | times).items()})


def read_planned(since: datetime, until: datetime) -> pl.DataFrame:
    return trips(since, until, timedelta(hours=12)).select("trip", "zone", "hour", "event_time", "known_at")


def read_done(since: datetime, until: datetime) -> pl.DataFrame:
    return trips(since, until, -timedelta(hours=1)).select("trip", "zone", "late", "event_time", "known_at")


planned = Source("planned", read_planned, lambda: schema(trip=pl.String, zone=pl.String, hour=pl.Int64), ("trip",))
done = Source("done", read_done, lambda: schema(trip=pl.String, zone=pl.String, late=pl.Boolean), ("trip",))


def build_recent(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """A zone's share of late trips of a day, at each trip's end."""
    rolled = tables["done"].sort("known_at").rolling("known_at", period="1d", group_by="zone")
    rows = rolled.agg(zone_late=pl.col("late").mean(), zone_trips=pl.len().cast(pl.Float64))
    return rows.with_columns(event_time="known_at")


recent = FeatureTable("recent", build_recent, (done,), ("zone",), lookback=timedelta(days=2))


def trip_facts(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"hour_of_day": rows["hour"]}


def feature_repo(source: Any) -> Sequence[Any]:
    from inspect import getsource

    from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView, RequestSource, ValueType
    from feast.types import Float64, Int64, String

    zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.STRING)
    fields = [Field(name="zone", dtype=String), *(Field(name=f, dtype=Float64) for f in ("zone_late", "zone_trips"))]
    view = FeatureView(name="recent", entities=[zone], ttl=timedelta(days=1), schema=fields, source=source(recent))
    facts = OnDemandFeatureView(
        name="trip_facts",
        sources=[RequestSource(name="request", schema=[Field(name="hour", dtype=Int64)])],
        schema=[Field(name="hour_of_day", dtype=Int64)],
        mode="python",
        udf=trip_facts,
        udf_string=getsource(trip_facts),
    )
    return [zone, view, facts, FeatureService(name="taxi", features=[view, facts])]


def logistic(inputs: Any, C: float = 1.0) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C))


use_case = UseCase(
    name="taxi",
    question="Will this trip be late?",
    sources=(planned, done),
    population=Population(planned, lead=timedelta(hours=2)),
    label=Label(done, column="late", arrives_after=timedelta(hours=2)),
    feature_tables=(recent,),
    feature_repo=feature_repo,
    on_demand=(trip_facts,),
    baseline=Candidate("constant", logistic, search={"C": (1e-6,)}),
    candidates=(Candidate("logistic", logistic),),
    budget=Budget(at_least(roc_auc=0.55), at_most(p99_ms=200, memory_mb=200)),
    slices=("zone",),
    training=Training(holdout=timedelta(days=3), min_rows=200),
    monitor=Monitor(min_rows=100),
    retrain=Retrain(cooldown=timedelta(days=1), min_new_labels=100, max_age=timedelta(days=7)),
)
