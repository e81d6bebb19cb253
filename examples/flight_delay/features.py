"""What the model sees of a flight two hours before it departs: feature tables, and the Feast objects that name them.

Each row of a table uses only what was known at its event time, which is every half hour or when something happened.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from inspect import getsource
from typing import Any

import polars as pl

from millrace import FeatureTable, Source

from .sources import WEATHER, departures, flights, planes, schedule, weather

Tables = Mapping[str, pl.LazyFrame]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GAIN, DELAY = pl.col("dep_delay") - pl.col("arr_delay"), pl.col("arr_delay").clip(-30, 180)


def recent(tables: Tables, by: Sequence[str]) -> pl.LazyFrame:
    """How it goes for a carrier or an airport: delays, and the flights that should have left but have not
    (`overdue`: for six hours, after which they pass for cancelled)."""
    gone = tables["departures"].select("flight_id", gone="known_at")
    plan = tables["schedule"].join(gone, "flight_id", how="left")
    plan = plan.with_columns(gone=pl.min_horizontal("gone", pl.col("departs") + 6 * HOUR))
    waiting = plan.filter(pl.col("gone") > pl.col("departs"))
    events = (
        tables["departures"].select(*by, at="known_at", left=1, delay=pl.col("dep_delay").clip(-15, 180)),
        tables["flights"].select(*by, "late", at="known_at", landed=1, gain=GAIN, arrival_delay=DELAY),
        waiting.select(*by, at="departs", overdue=1),
        waiting.select(*by, at="gone", overdue=-1),
    )
    return on_grid(pl.concat(events, how="diagonal_relaxed"), by)


def on_grid(events: pl.LazyFrame, by: Sequence[str]) -> pl.LazyFrame:
    """Sums and means of the last hours, every half hour (of whole numbers: exact wherever reading begins)."""
    counts = ("left", "delay", "landed", "arrival_delay", "late", "gain", "overdue")
    time, ceiling = pl.col("event_time"), (pl.col("at") - pl.duration(microseconds=1)).dt.truncate("30m")
    sums = events.group_by(*by, event_time=ceiling.dt.offset_by("30m")).agg(pl.col(counts).cast(pl.Int64).sum())
    instants = sums.filter(pl.len() > 0).select(pl.datetime_range(time.min(), time.max() + 6 * HOUR, "30m"))
    grid = sums.select(by).unique().join(instants, how="cross").join(sums, [*by, "event_time"], how="left")

    def last(hours: int, count: str) -> pl.Expr:
        return pl.col(count).rolling_sum(2 * hours, min_samples=1).over(by)

    values = {
        "delay_4h": last(4, "delay") / last(4, "left"),
        "arrival_delay_2h": last(2, "arrival_delay") / last(2, "landed"),
        "late_1d": last(24, "late") / last(24, "landed"),
        "gain_12h": last(12, "gain") / last(12, "landed"),
        "overdue": pl.col("overdue").cum_sum().over(by),
    }
    rows = grid.sort(*by, time).with_columns(pl.col(counts).fill_null(0)).select(*by, time, known_at=time, **values)
    return rows.with_columns(overdue_all=pl.col("overdue").sum().over(time)).fill_nan(None).drop_nulls("late_1d")


def history(tables: Tables, by: Sequence[str]) -> pl.LazyFrame:
    """The mean delay of four weeks on a route or of a flight number, at each arrival; how long the last five took."""
    arrivals = tables["flights"].sort("known_at", "flight_id").rolling("known_at", period="28d", group_by=by)
    rows = arrivals.agg(delay=DELAY.mean(), elapsed=(pl.col("block_minutes") - GAIN).tail(5).mean())
    return rows.unique([*by, "known_at"]).with_columns(event_time="known_at")


def aircraft(tables: Tables, by: Sequence[str]) -> pl.LazyFrame:
    """An aircraft's last flight from New York: a row when it leaves (minute `left` since 1970) and when it lands."""
    left = pl.col("event_time").dt.epoch("s") // 60
    facts = {"event_time": "known_at", "known_at": "known_at", "delay": "dep_delay", "block": "block_minutes"}
    leaving = tables["departures"].select(*by, left=left, **facts)
    landing = tables["flights"].select(*by, left=left + pl.col("dep_delay"), arrival_delay="arr_delay", **facts)
    return pl.concat([leaving, landing], how="diagonal").drop_nulls(by)


def table(name: str, build: Callable[..., pl.LazyFrame], by: str, days: int, *reads: Source) -> FeatureTable:
    """The table of what `build` returns, each feature bearing the table's name; a row depends on so many days."""
    keys = (*by.split(), "event_time", "known_at")

    def named(tables: Tables) -> pl.LazyFrame:
        return build(tables, by.split()).select(*keys, pl.exclude(keys).name.prefix(f"{name}_"))

    return FeatureTable(name, named, reads, keys[:-2], days * DAY)


MOVES = (schedule, departures, flights)
VIEWS = {
    table("origin", recent, "origin", 3, *MOVES): (6, "delay_4h arrival_delay_2h late_1d overdue overdue_all"),
    table("carrier", recent, "carrier", 3, *MOVES): (6, "delay_4h late_1d"),
    table("dest", recent, "dest", 3, *MOVES): (6, "late_1d gain_12h overdue"),
    table("route", history, "origin dest", 30, flights): (28 * 24, "delay elapsed"),
    table("number", history, "flight origin", 30, flights): (28 * 24, "delay"),
    table("aircraft", aircraft, "tailnum", 3, departures, flights): (3 * 24, "delay arrival_delay block left"),
    table("weather", lambda tables, by: tables["weather"], "origin", 1, weather): (6, " ".join(WEATHER)),
    table("plane", lambda tables, by: tables["planes"], "tailnum", 1, planes): (0, "seats"),
}
"""The feature tables: how many hours a row of each holds (0: for ever), and the features that its Feast view has."""
HIDDEN = {"route_elapsed", "aircraft_left"}
"""What only `flight_facts` reads."""


def flight_facts(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What the request says of a flight, its minutes to `spare` over the last ones, how long its aircraft is `away`."""
    from zoneinfo import ZoneInfo

    here = ZoneInfo("America/New_York")
    local = [at and at.astimezone(here) for at in rows["departs"]]
    spare = zip(rows["block_minutes"], rows["route_elapsed"], strict=True)
    away = zip(local, rows["aircraft_left"], strict=True)
    return {f"{key}_code": rows[key] for key in ("carrier", "origin", "dest")} | {
        "departure_minute": [at and at.hour * 60 + at.minute for at in local],
        "weekday": [at and at.isoweekday() for at in local],
        "spare": [None if None in pair else pair[0] - pair[1] for pair in spare],
        "away": [None if None in pair else pair[0].timestamp() // 60 - pair[1] for pair in away],
    }


def feature_repo(source: Callable[[FeatureTable], Any]) -> Sequence[Any]:
    """Feast's entities, views and the one service, over the lake's feature tables."""
    from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView, RequestSource, ValueType
    from feast.types import Float64, Int64, String, UnixTimestamp

    def fields(dtype: Any, names: str, prefix: str = "") -> list[Any]:
        return [Field(name=prefix + name, dtype=dtype) for name in names.split()]

    keys = ("carrier", "origin", "dest", "flight", "tailnum")
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys}
    views = {}
    for table, (hours, names) in VIEWS.items():
        schema = fields(String, " ".join(table.entity)) + fields(Float64, names, f"{table.name}_")
        by, ttl = [entities[key] for key in table.entity], hours * HOUR
        views[table.name] = FeatureView(name=table.name, entities=by, ttl=ttl, schema=schema, source=source(table))
    given = fields(String, "carrier origin dest") + fields(Int64, "block_minutes")
    request = RequestSource(name="request", schema=given + fields(UnixTimestamp, "departs"))
    numbers = fields(Int64, "departure_minute weekday") + fields(Float64, "spare away")
    facts = OnDemandFeatureView(
        name="flight_facts",
        sources=[request, views["route"][["route_elapsed"]], views["aircraft"][["aircraft_left"]]],
        schema=fields(String, "carrier_code origin_code dest_code") + numbers,
        mode="python",
        udf=flight_facts,
        udf_string=getsource(flight_facts),
    )
    seen = [view[[field.name for field in view.features if field.name not in HIDDEN]] for view in views.values()]
    return [*entities.values(), *views.values(), facts, FeatureService(name="flight_delay", features=[*seen, facts])]
