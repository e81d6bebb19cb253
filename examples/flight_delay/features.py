"""What the model sees of a flight two hours before it departs: feature tables, and the Feast objects that name them.

Every row of a table uses only what was known at its event time. How things went lately stands on a grid of half hours,
so that a lull counts as well as news; what happened to a route, a flight number or an aircraft is a row an event.
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
MEANS = {
    "delay_2h": ("delay", "left", 2),
    "late_1d": ("late", "landed", 24),
    "late_7d": ("late", "landed", 168),
    "gain_12h": ("gain", "landed", 12),
}
"""A total over a count, in so many hours: minutes of delay a departure, share of late arrivals, minutes made up on the way."""
GAIN = pl.col("dep_delay") - pl.col("arr_delay")


def recent(tables: Tables, by: Sequence[str]) -> pl.LazyFrame:
    """How things went for a carrier, an airport or both, every half hour: `MEANS`; the flights that should have left but
    have not (`overdue`; after six hours they pass for cancelled), here and `everywhere`; those `due` in 1 to 3 hours."""
    gone = tables["departures"].select("flight_id", gone="known_at")
    plan = tables["schedule"].join(gone, "flight_id", how="left")
    plan = plan.with_columns(gone=pl.min_horizontal("gone", pl.col("departs") + 6 * HOUR))
    waiting = plan.filter(pl.col("gone") > pl.col("departs"))
    events = (
        tables["departures"].select(*by, at="known_at", left=1, delay=pl.col("dep_delay").clip(-15, 180)),
        tables["flights"].select(*by, "late", at="known_at", landed=1, gain=GAIN),
        waiting.select(*by, at="departs", overdue=1),
        waiting.select(*by, at="gone", overdue=-1),
        plan.select(*by, at=pl.col("departs") - 3 * HOUR, due=1),
    )
    return on_grid(pl.concat(events, how="diagonal_relaxed"), by)


def on_grid(events: pl.LazyFrame, by: Sequence[str]) -> pl.LazyFrame:
    """The features of `recent`, from events that count from their instant `at` on (whole numbers, so sums are exact)."""
    counts, time = ("left", "delay", "landed", "late", "gain", "overdue", "due"), pl.col("event_time")
    ceiling = (pl.col("at") - timedelta(microseconds=1)).dt.truncate("30m").dt.offset_by("30m")
    sums = events.group_by(*by, event_time=ceiling).agg(pl.col(counts).cast(pl.Int64).sum())
    instants = sums.filter(pl.len() > 0).select(pl.datetime_range(time.min(), time.max() + 6 * HOUR, "30m"))
    grid = sums.select(by).unique().join(instants, how="cross").join(sums, [*by, "event_time"], how="left")

    def last(count: str, hours: int) -> pl.Expr:
        return pl.col(count).rolling_sum(2 * hours, min_samples=1).over(by)

    values = {name: last(total, hours) / last(count, hours) for name, (total, count, hours) in MEANS.items()}
    values |= {"overdue": pl.col("overdue").cum_sum().over(by), "due": last("due", 2)}
    busy = last("left", 168) + last("landed", 168) + values["overdue"] + values["due"] > 0
    grid = grid.sort(*by, time).with_columns(pl.col(counts).fill_null(0)).select(*by, time, busy=busy, **values)
    rows = grid.with_columns(known_at=time, everywhere=pl.col("overdue").sum().over(time)).filter("busy")
    return rows.drop("busy").fill_nan(None)


def history(tables: Tables, by: Sequence[str]) -> pl.LazyFrame:
    """The arrivals of four weeks on a route or of a flight number, at each arrival; how long the last five `took`."""
    landed = tables["flights"].sort("known_at").rolling("known_at", period="28d", group_by=by)
    late, took = pl.col("late").mean(), (pl.col("block_minutes") - GAIN).tail(5).mean()
    rows = landed.agg(delay=pl.col("arr_delay").clip(-30, 180).mean(), late=late, took=took)
    return rows.unique([*by, "known_at"]).with_columns(event_time="known_at")


def aircraft(tables: Tables, by: Sequence[str]) -> pl.LazyFrame:
    """An aircraft's last flight from New York: a row when it leaves (at minute `left` since 1970), another when it lands."""
    left = pl.col("event_time").dt.epoch("s") // 60
    facts = {"event_time": "known_at", "known_at": "known_at", "delay": "dep_delay", "block": "block_minutes"}
    leaving = tables["departures"].select(*by, left=left, **facts)
    landing = tables["flights"].select(*by, left=left + pl.col("dep_delay"), arrival_delay="arr_delay", **facts)
    return pl.concat([leaving, landing], how="diagonal").drop_nulls(by)


def table(
    name: str, build: Callable[..., pl.LazyFrame], reads: tuple[Source, ...], *by: str, days: int
) -> FeatureTable:
    """The table of what `build` returns, each feature bearing the table's name; inputs matter for so many days."""

    def named(tables: Tables) -> pl.LazyFrame:
        keys = (*by, "event_time", "known_at")
        return build(tables, by).select(*keys, pl.exclude(*keys).name.prefix(f"{name}_"))

    return FeatureTable(name, named, reads, by, days * DAY)


MOVES = (schedule, departures, flights)
VIEWS = {
    table("origin", recent, MOVES, "origin", days=9): (6 * HOUR, "delay_2h late_1d late_7d overdue everywhere due"),
    table("carrier", recent, MOVES, "carrier", days=9): (6 * HOUR, "delay_2h late_1d late_7d"),
    table("dest", recent, MOVES, "dest", days=9): (6 * HOUR, "delay_2h late_1d late_7d gain_12h overdue"),
    table("base", recent, MOVES, "carrier", "origin", days=9): (6 * HOUR, "delay_2h late_1d due"),
    table("route", history, (flights,), "origin", "dest", days=30): (28 * DAY, "delay late took"),
    table("number", history, (flights,), "flight", "origin", days=30): (28 * DAY, "delay late"),
    table("aircraft", aircraft, MOVES[1:], "tailnum", days=3): (3 * DAY, "delay arrival_delay block left"),
    table("weather", lambda tables, _: tables["weather"], (weather,), "origin", days=1): (6 * HOUR, " ".join(WEATHER)),
    table("plane", lambda tables, _: tables["planes"], (planes,), "tailnum", days=1): (None, "year seats"),
}
"""The feature tables, with how long a row of each holds and the features that its Feast view has."""
HIDDEN = {"route_took", "aircraft_left"}
"""Features that only `flight_facts` reads: the model gets them relative to the flight."""


def flight_facts(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What the request says of a flight, its minutes to `spare` over the way of late, and how long its aircraft is `away`."""
    from zoneinfo import ZoneInfo

    def less(these: list[Any], those: list[Any]) -> list[Any]:
        return [None if a is None or b is None else a - b for a, b in zip(these, those, strict=True)]

    zone = ZoneInfo("America/New_York")
    local = [at and at.astimezone(zone) for at in rows["departs"]]
    return {f"{key}_code": rows[key] for key in ("carrier", "origin", "dest")} | {
        "departure_minute": [at and at.hour * 60 + at.minute for at in local],
        "weekday": [at and at.isoweekday() for at in local],
        "miles": rows["distance"],
        "spare": less(rows["block_minutes"], rows["route_took"]),
        "away": less([at and at.timestamp() // 60 for at in local], rows["aircraft_left"]),
    }


def feature_repo(source: Callable[[FeatureTable], Any]) -> Sequence[Any]:
    """Feast's entities, views and the one service, over the lake's feature tables."""
    from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView, RequestSource, ValueType
    from feast.types import Float64, Int64, String, UnixTimestamp

    def fields(names: str, dtype: Any, prefix: str = "") -> list[Any]:
        return [Field(name=prefix + name, dtype=dtype) for name in names.split()]

    keys = ("carrier", "origin", "dest", "flight", "tailnum")
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys}
    views = []
    for table, (ttl, names) in VIEWS.items():
        schema = fields(" ".join(table.entity), String) + fields(names, Float64, f"{table.name}_")
        by = [entities[key] for key in table.entity]
        views.append(FeatureView(name=table.name, entities=by, ttl=ttl, schema=schema, source=source(table)))
    shown = [view[[feature.name for feature in view.features if feature.name not in HIDDEN]] for view in views]
    hidden = [view[[name]] for view in views for name in HIDDEN if name in {feature.name for feature in view.features}]
    given = fields("carrier origin dest", String) + fields("block_minutes distance", Int64)
    request = RequestSource(name="request", schema=[*given, *fields("departs", UnixTimestamp)])
    codes, numbers = "carrier_code origin_code dest_code", "departure_minute weekday miles"
    facts = OnDemandFeatureView(
        name="flight_facts",
        sources=[request, *hidden],
        schema=fields(codes, String) + fields(numbers, Int64) + fields("spare away", Float64),
        mode="python",
        udf=flight_facts,
        udf_string=getsource(flight_facts),
    )
    return [*entities.values(), *views, facts, FeatureService(name="flight_delay", features=[*shown, facts])]
