"""A batch unlike the ones before it is stopped, and ordinary ones pass: on the real flights, week by week."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from millrace import Plausible, Source, UseCaseError
from millrace.errors import SourceError
from millrace.lake import Lake
from millrace.loader import load_use_case
from millrace.settings import Settings
from pipelines.ingest import ingest_source
from pipelines.ingest.anomalies import check_plausible
from pipelines.ingest.validate import check_batch

ROOT = Path(__file__).resolve().parents[2]
FIRST, WEEK = datetime(2013, 1, 1, tzinfo=UTC), timedelta(days=7)
BEGINNING, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC)
Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    """The flight example's, by name."""
    use_case = load_use_case("flight_delay", Settings(use_cases=ROOT / "examples"))
    return {source.name: source for source in use_case.sources}


@pytest.fixture(scope="module")
def rows(sources: dict[str, Source]) -> dict[str, pl.DataFrame]:
    """Every row of the year of the four sources that bring rows each week, in the order in which they became known."""
    names = ("flights", "departures", "schedule", "weather")
    return {name: sources[name].read(BEGINNING, END) for name in names}  # type: ignore[operator]  # functions


@pytest.fixture(scope="module")
def lake(rows: dict[str, pl.DataFrame], sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """All of them in a lake: a week is compared with what lies before it."""
    made = Lake(str(tmp_path_factory.mktemp("flights")))
    for name, frame in rows.items():
        made.merge(f"raw/{name}", frame, key=sources[name].key)
    return made


def week_of(frame: pl.DataFrame, since: datetime, length: timedelta = WEEK) -> pl.DataFrame:
    return frame.filter(pl.col("known_at") > since, pl.col("known_at") <= since + length)


def some(share: float) -> pl.Expr:
    """This share of the rows, spread evenly."""
    return pl.int_range(pl.len()) % 100 < share * 100


def times(column: str, factor: float, share: float = 1.0) -> Change:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        changed = (pl.col(column) * factor).cast(frame.schema[column])
        return frame.with_columns(pl.when(some(share)).then(changed).otherwise(column).alias(column))

    return change


def filled(column: str, value: object, share: float) -> Change:
    return lambda frame: frame.with_columns(
        pl.when(some(share)).then(pl.lit(value, frame.schema[column])).otherwise(column).alias(column)
    )


def later(span: timedelta, share: float) -> Change:
    moved = pl.when(some(share)).then(pl.col("event_time") + span).otherwise("event_time")
    return lambda frame: frame.with_columns(event_time=moved)


PLANTED: dict[str, tuple[str, int, Change, str]] = {
    "minutes as centiminutes": ("flights", 10, times("dep_delay", 100), "dep_delay"),
    "a third of the delays ×100": ("flights", 17, times("arr_delay", 100, 0.3), "arr_delay"),
    "a fifth of the durations ×100": ("schedule", 44, times("block_minutes", 100, 0.2), "block_minutes"),
    "minutes divided by 100": ("flights", 30, times("dep_delay", 0.01), "dep_delay"),
    "percent as a share": ("weather", 26, times("humid", 0.01), "humid"),
    "a third of the percents as shares": ("weather", 12, times("humid", 0.01, 0.33), "humid"),
    "degrees ×100": ("weather", 5, times("dewp", 100), "dewp"),
    "hectopascal as pascal in part": ("weather", 48, times("pressure", 100, 0.3), "pressure"),
    "rain ×100": ("weather", 22, times("precip", 100), "precip"),
    "tail numbers flooded with nulls": ("departures", 20, filled("tailnum", None, 0.4), "tailnum"),
    "tail numbers flooded with blanks": ("schedule", 33, filled("tailnum", "", 0.5), "tailnum"),
    "the pressure not delivered": ("weather", 40, filled("pressure", None, 1), "pressure"),
    "the wind as NaN": ("weather", 15, filled("wind_dir", float("nan"), 0.6), "wind_dir"),
    "the wind filled up with zeros": ("weather", 37, filled("wind_speed", 0.0, 0.6), "wind_speed"),
    "more rows without a delay than may be bad": ("flights", 8, filled("arr_delay", None, 0.2), "arr_delay"),
    "a renamed column": ("flights", 25, lambda f: f.rename({"dep_delay": "departure_delay"}), "dep_delay"),
    "a retyped column": ("weather", 9, lambda f: f.cast({"visib": pl.String}), "visib"),
    "an empty file": ("departures", 14, lambda f: f.clear(), "known_at"),
    "a file cut after 80 %": ("flights", 35, lambda f: f.head(int(0.8 * f.height)), "known_at"),
    "a hundredth of the events a year ahead": ("weather", 28, later(timedelta(days=365), 0.01), "event_time"),
}


def test_twenty_anomalies_are_planted() -> None:
    assert len(PLANTED) == 20


@pytest.mark.parametrize("planted", list(PLANTED))
def test_a_planted_anomaly_is_caught_its_column_named_and_nothing_written(
    planted: str, lake: Lake, sources: dict[str, Source], rows: dict[str, pl.DataFrame]
) -> None:
    name, week, change, column = PLANTED[planted]
    since, version = FIRST + week * WEEK, lake.version(f"raw/{name}")
    batch = change(week_of(rows[name], since))
    source = replace(sources[name], read=lambda since, until: batch)
    with pytest.raises(SourceError, match="Nothing of it was written") as stopped:
        ingest_source(source, lake, Settings(), since=since, as_of=since + WEEK)
    assert column in stopped.value.what
    assert (lake.version(f"raw/{name}"), lake.exists(f"quarantine/{name}")) == (version, False)


@pytest.mark.parametrize("name", ["flights", "departures", "schedule", "weather"])
def test_fifty_weekly_batches_as_they_were_pass(
    name: str, lake: Lake, sources: dict[str, Source], rows: dict[str, pl.DataFrame]
) -> None:
    stored = lake.scan(f"raw/{name}").collect_schema()
    for since in (FIRST + week * WEEK for week in range(50)):
        checked = check_batch(sources[name], week_of(rows[name], since), stored)
        check_plausible(sources[name], checked.good, lake, since=since, until=since + WEEK)


def test_quiet_nights_pass_hour_by_hour(lake: Lake, sources: dict[str, Source], rows: dict[str, pl.DataFrame]) -> None:
    hour, night = timedelta(hours=1), datetime(2013, 6, 4, 4, tzinfo=UTC)
    quiet = [night + step * hour for step in range(6)]
    assert any(week_of(rows["flights"], since, hour).is_empty() for since in quiet)
    for since in quiet:
        batch = week_of(rows["flights"], since, hour)
        check_plausible(sources["flights"], batch, lake, since=since, until=since + hour)


DAY = timedelta(days=1)


def readings(days: int, *, every: timedelta = timedelta(hours=1), height: float = 10.0) -> pl.DataFrame:
    """One sensor's readings of these days from FIRST on, known when they were made."""
    known = pl.datetime_range(FIRST, FIRST + days * DAY, every, eager=True, closed="right", time_zone="UTC")
    reading = pl.Series([height + number % 7 for number in range(len(known))])
    return pl.DataFrame({"event_time": known, "known_at": known, "reading": reading})


def schema() -> object:
    import pandera.polars as pa

    return pa.DataFrameSchema({"reading": pa.Column(pl.Float64, nullable=True)})


def sensor(frame: pl.DataFrame) -> Source:
    return Source("sensor", lambda since, until: frame, schema, key=("event_time",))


@pytest.fixture
def past(tmp_path: Path) -> Lake:
    """Thirty days of readings, ingested."""
    lake = Lake(str(tmp_path))
    ingest_source(sensor(readings(30)), lake, Settings(), since=None, as_of=FIRST + 30 * DAY)
    return lake


def ingest_day(lake: Lake, source: Source, *, accept: bool = False) -> int:
    return ingest_source(source, lake, Settings(), since=None, as_of=FIRST + 31 * DAY, accept=accept).written


def test_a_stopped_batch_leaves_the_cursor_so_the_next_ingest_reads_its_range_again(past: Lake) -> None:
    with pytest.raises(SourceError, match="the column reading changed its unit"):
        ingest_day(past, sensor(readings(31, height=1000.0)))
    assert past.cursor("raw/sensor") == FIRST + 30 * DAY
    assert ingest_day(past, sensor(readings(31))) == 24


def test_an_accepted_batch_is_taken_and_is_the_measure_of_the_next(past: Lake) -> None:
    changed = readings(32, height=1000.0)
    assert ingest_day(past, sensor(changed), accept=True) == 24
    assert ingest_source(sensor(changed), past, Settings(), since=None, as_of=FIRST + 32 * DAY).written == 24


def test_a_change_that_the_use_case_allows_passes(past: Lake) -> None:
    for allowed in (Plausible(unit_jump=200), Plausible(ignore=("reading",)), Plausible(ignore=("*",))):
        source = replace(sensor(readings(31, height=1000.0)), plausible=allowed)
        check_plausible(source, week_of(readings(31, height=1000.0), FIRST + 30 * DAY, DAY), past, **RANGE)


RANGE = {"since": FIRST + 30 * DAY, "until": FIRST + 31 * DAY}


def test_the_error_says_what_to_type(past: Lake) -> None:
    with pytest.raises(SourceError) as stopped:
        ingest_day(past, sensor(readings(31, height=1000.0)))
    assert "millrace ingest USE_CASE --accept sensor" in stopped.value.todo
    assert "24 good rows" in stopped.value.looked


@pytest.mark.parametrize("days", [1, 15])
def test_a_short_past_is_no_measure(tmp_path: Path, days: int) -> None:
    lake = Lake(str(tmp_path))
    ingest_source(sensor(readings(days)), lake, Settings(), since=None, as_of=FIRST + days * DAY)
    changed = sensor(readings(days + 1, height=1000.0))
    assert ingest_source(changed, lake, Settings(), since=None, as_of=FIRST + (days + 1) * DAY).written == 24


def test_a_first_batch_is_compared_with_nothing(tmp_path: Path) -> None:
    source, lake = sensor(readings(1)), Lake(str(tmp_path))
    check_plausible(source, readings(1), lake, since=BEGINNING, until=FIRST + DAY)
    check_plausible(source, readings(1).clear(), lake, since=FIRST, until=FIRST + DAY)


@pytest.mark.parametrize("weeks", [3, 4, 5, 8, 40])
def test_a_source_that_brought_rows_once_may_stay_silent(tmp_path: Path, weeks: int) -> None:
    lake, now = Lake(str(tmp_path)), FIRST + weeks * WEEK
    ingest_source(sensor(readings(1)), lake, Settings(), since=None, as_of=now)
    check_plausible(sensor(readings(1)), readings(1).clear(), lake, since=now, until=now + WEEK)


def test_a_silent_source_is_stopped_until_the_silence_is_accepted(past: Lake) -> None:
    nothing = sensor(readings(30))
    with pytest.raises(SourceError, match=r"it has 0 rows.*no row became known for 1 day"):
        ingest_day(past, nothing)
    ingest_day(past, nothing, accept=True)
    assert past.cursor("raw/sensor") == FIRST + 31 * DAY


def test_rows_missing_at_the_beginning_stop_a_batch(past: Lake) -> None:
    tail = readings(31).filter(pl.col("known_at") > FIRST + 30.3 * DAY)
    with pytest.raises(SourceError, match="at its beginning"):
        check_plausible(sensor(tail), tail, past, **RANGE)


@pytest.mark.parametrize(("hours", "stopped"), [(2, False), (3, True)])
def test_an_event_may_lie_as_far_ahead_as_declared(past: Lake, hours: int, stopped: bool) -> None:
    batch = week_of(readings(31), FIRST + 30 * DAY, DAY).with_columns(pl.col("event_time") + timedelta(hours=hours))
    source = replace(sensor(batch), ahead=timedelta(hours=2))
    if not stopped:
        check_plausible(source, batch, past, **RANGE)
        return
    with pytest.raises(SourceError, match="the column event_time lies in the future in 24 rows"):
        check_plausible(source, batch, past, **RANGE)


def test_a_declared_limit_ahead_holds_without_a_past(tmp_path: Path) -> None:
    batch = readings(1).with_columns(pl.col("event_time") + DAY)
    source = replace(sensor(batch), ahead=timedelta(0))
    with pytest.raises(SourceError, match="the source declares at most"):
        check_plausible(source, batch, Lake(str(tmp_path)), since=BEGINNING, until=FIRST + DAY)


@pytest.mark.parametrize(
    "wrong",
    [{"unit_jump": 1.0}, {"jumped": -0.1}, {"null_rise": -1}, {"fewest_rows": -1}, {"longest_silence": 0.5}],
)
def test_an_impossible_limit_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UseCaseError, match="Plausible: unit_jump must exceed 1"):
        Plausible(**wrong)  # type: ignore[arg-type]  # a fault is meant


def test_one_column_to_ignore_must_stand_in_a_tuple() -> None:
    with pytest.raises(UseCaseError, match="ignore must be a tuple"):
        Plausible(ignore="reading")  # type: ignore[arg-type]  # a fault is meant
