"""Which fruit is on the scale? Synthetic spectra of four channels, one an hour; everything comes with the request.

What a weighing is depends on its number only, so that every read gives the same rows.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from millrace import (
    Budget,
    Candidate,
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
KINDS = ("apple", "pear", "quince")


def weighings(since: datetime, until: datetime, late: timedelta) -> pl.DataFrame:
    """The weighings known in (since, until], `late` after they happened; a fruit's channel of four is brighter."""
    number = pl.col("number")
    kind = number * 7 // 3 % 3
    noise = [(number * prime % 101) / 101 for prime in (7, 13, 29, 31)]
    channels = [noise[place] + (kind == place).cast(pl.Float64) * 0.8 for place in range(4)]
    frame = (
        pl.int_range(0, 24 * 60, eager=True)
        .alias("number")
        .to_frame()
        .with_columns(
            weighing=pl.format("W{}", number),
            spectrum=pl.concat_list(channels),
            shop=pl.format("S{}", number % 5),
            organic=number % 2 == 0,
            fruit=kind.replace_strict(dict(enumerate(KINDS)), return_dtype=pl.String),
            event_time=pl.lit(FIRST) + number * timedelta(hours=1),
        )
    )
    frame = frame.with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
    frame = frame.with_columns(known_at=pl.col("event_time") + late)
    return frame.filter(pl.col("known_at") > since, pl.col("known_at") <= until)


def schema(**types: Any) -> Any:
    import pandera.polars as pa

    times = {name: pl.Datetime("us", "UTC") for name in ("event_time", "known_at")}
    return pa.DataFrameSchema({name: pa.Column(kind) for name, kind in (types | times).items()})


def read_scale(since: datetime, until: datetime) -> pl.DataFrame:
    return weighings(since, until, timedelta(0)).drop("number", "fruit")


def read_till(since: datetime, until: datetime) -> pl.DataFrame:
    return weighings(since, until, timedelta(hours=2)).select("weighing", "fruit", "event_time", "known_at")


scale = Source(
    "scale",
    read_scale,
    lambda: schema(weighing=pl.String, spectrum=pl.List(pl.Float64), shop=pl.String, organic=pl.Boolean),
    ("weighing",),
)
till = Source("till", read_till, lambda: schema(weighing=pl.String, fruit=pl.String), ("weighing",))


def logistic(inputs: Any, C: float = 1.0) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C))


use_case = UseCase(
    name="fruit",
    question="Which fruit is on the scale?",
    sources=(scale, till),
    population=Population(scale),
    label=Label(till, "fruit", arrives_after=timedelta(hours=2), classes=KINDS),
    request_features=("spectrum", "shop", "organic"),
    baseline=Candidate("constant", logistic, search={"C": (1e-6,)}),
    candidates=(Candidate("logistic", logistic),),
    budget=Budget(at_least(accuracy=0.6), at_most(p99_ms=200, memory_mb=200)),
    slices=("shop",),
    training=Training(holdout=timedelta(days=4), min_rows=100),
    monitor=Monitor(min_rows=50),
    retrain=Retrain(cooldown=timedelta(days=1), min_new_labels=20, max_age=timedelta(days=7)),
)
