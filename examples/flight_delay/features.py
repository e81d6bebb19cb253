"""What the model sees of a flight two hours before it departs: feature tables, and the Feast objects that name them.

Every row of a table uses only what was known at its event time. How things went lately stands on a grid of instants,
so that a lull counts as well as news; what happened to a route, a flight number or an aircraft is a row an event.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from inspect import getsource
from typing import Any

import polars as pl

from millrace import FeatureTable

from .sources import WEATHER, departures, flights, planes, schedule, weather

Tables = Mapping[str, pl.LazyFrame]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RATES = {
    "delay_1h": ("delay", "left", 1),
    "delay_4h": ("delay", "left", 4),
    "late_1d": ("late", "landed", 24),
    "late_7d": ("late", "landed", 168),
    "gain_7d": ("gain", "landed", 168),
}
"""How things went lately: a total over a count of so many hours. Minutes of departure delay a departure; late arrivals
and minutes made up under way an arrival."""
OVERDUE = ("overdue", "overdue_minutes")
"""Flights that should have left by now but have not, for six hours at most (after that they are cancelled, not late)."""


def recent(*by: str) -> FeatureTable:
    """`RATES` and `OVERDUE` of a carrier, an airport or both, every half hour."""
    name = "_".join(by)

    def build(tables: Tables) -> pl.LazyFrame:
        late, gain = pl.col("late").cast(pl.Int64), pl.col("dep_delay") - pl.col("arr_delay")
        left = tables["departures"].select(*by, at="known_at", left=1, delay=pl.col("dep_delay").clip(-15, 180))
        landed = tables["flights"].select(*by, at="known_at", landed=1, late=late, gain=gain)
        gone = tables["departures"].select("flight_id", gone="known_at")
        due = tables["schedule"].join(gone, "flight_id", how="left")
        due = due.with_columns(gone=pl.min_horizontal("gone", pl.col("departs") + 6 * HOUR))
        due = due.filter(pl.col("gone") > pl.col("departs")).with_columns(minute=minute("departs"))
        begin = due.select(*by, at="departs", overdue=1, since="minute")
        end = due.select(*by, at="gone", overdue=-1, since=-pl.col("minute"))
        rows = on_grid(pl.concat([left, landed, begin, end], how="diagonal_relaxed"), by)
        return rows.rename({value: f"{name}_{value}" for value in (*RATES, *OVERDUE)})

    return FeatureTable(f"{name}_recent", build, (schedule, departures, flights), by, lookback=9 * DAY)


def on_grid(events: pl.LazyFrame, by: Sequence[str]) -> pl.LazyFrame:
    """`RATES` and `OVERDUE` every half hour, from what counts from the instant `at` on (whole numbers: sums are exact)."""
    counts, time = ("left", "delay", "landed", "late", "gain", "overdue", "since"), pl.col("event_time")
    instant = (pl.col("at") - timedelta(microseconds=1)).dt.truncate("30m").dt.offset_by("30m")
    sums = events.group_by(*by, event_time=instant).agg(pl.col(counts).sum().cast(pl.Int64))
    instants = sums.filter(pl.len() > 0).select(event_time=pl.datetime_range(time.min(), time.max() + 6 * HOUR, "30m"))
    grid = sums.select(by).unique().join(instants, how="cross").join(sums, [*by, "event_time"], how="left")
    grid = grid.sort(*by, "event_time").with_columns(pl.col(counts).fill_null(0))

    def trailing(count: str, hours: int) -> pl.Expr:
        return pl.col(count).rolling_sum(2 * hours, min_samples=1).over(by)

    rates = {name: trailing(total, hours) / trailing(count, hours) for name, (total, count, hours) in RATES.items()}
    overdue, since = pl.col("overdue").cum_sum().over(by), pl.col("since").cum_sum().over(by)
    values = rates | {"overdue": overdue, "overdue_minutes": overdue * minute("event_time") - since}
    rows = grid.filter(trailing("left", 168) + trailing("landed", 168) + overdue > 0)
    return grid.select(*by, "event_time", known_at=time, busy=..., **values).fill_nan(None)


def minute(column: str) -> pl.Expr:
    """The instants of a column in minutes since 1970."""
    return pl.col(column).dt.epoch("s") // 60


def history(days: int, name: str, *by: str) -> FeatureTable:
    """The arrivals of so many days of a route or a flight number, at each arrival: share of late ones, mean delay."""

    def build(tables: Tables) -> pl.LazyFrame:
        values = (pl.len(), pl.col("late").mean(), pl.col("arr_delay").clip(-30, 180).mean())
        landed = tables["flights"].sort("known_at").rolling("known_at", period=f"{days}d", group_by=by)
        rows = landed.agg(value.alias(f"{name}_{column}") for value, column in zip(values, HISTORY, strict=True))
        return rows.unique([*by, "known_at"]).with_columns(event_time="known_at")

    return FeatureTable(f"{name}_history", build, (flights,), by, lookback=(days + 2) * DAY)


HISTORY = ("arrivals", "late", "delay")


def build_aircraft(tables: Tables) -> pl.LazyFrame:
    """An aircraft's last flight from New York: one row when it leaves, another when it lands."""
    left = tables["departures"].select("tailnum", "known_at", aircraft_left=minute("known_at"), aircraft_delay="dep_delay")
    landed = tables["flights"].select(
        "tailnum", "known_at", aircraft_left=minute("event_time") + pl.col("dep_delay"), 
        aircraft_delay="dep_delay", aircraft_arrival_delay="arr_delay",
    )
    rows = pl.concat([left, landed], how="diagonal")
    return rows.drop_nulls("tailnum").unique(["tailnum", "known_at"], keep="last", maintain_order=True).with_columns(event_time="known_at")


def build_weather(tables: Tables) -> pl.LazyFrame:
    """The hour that is over, from the moment that it is."""
    names = {column: f"weather_{column}" for column in WEATHER}
    return tables["weather"].rename(names).with_columns(event_time="known_at")
