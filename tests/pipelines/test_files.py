"""Files as a source: CSV and Parquet, here and in an object store, and files that are not what they should be."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pandera.polars as pa
import polars as pl
import pytest

from millrace import Source
from millrace.errors import SettingsError, SourceError, UseCaseError
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.source import Files
from pipelines.ingest import ingest_source, read_rows
from pipelines.ingest.shelf import open_shelf

START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(days=60)
INSTANT = pl.Datetime("us", "UTC")
LINES = ("key,event_time,known_at,reading", "a,2024-01-01T00:00:00Z,2024-01-01T01:00:00Z,1.5")


def at(days: float) -> datetime:
    return START + timedelta(days=days)


def frame(*days: float, key: str = "k") -> pl.DataFrame:
    """One row for each of these days, known an hour after it happened."""
    event = pl.Series("event_time", [at(day) for day in days], INSTANT)
    rows = pl.DataFrame(
        {"key": [f"{key}{day}" for day in days], "event_time": event, "reading": [float(day) for day in days]}
    )
    return rows.with_columns(known_at=pl.col("event_time") + pl.duration(hours=1))


def schema() -> Any:
    types = {"key": pl.String, "event_time": INSTANT, "known_at": INSTANT, "reading": pl.Float64}
    return pa.DataFrameSchema({name: pa.Column(kind, nullable=name == "reading") for name, kind in types.items()})


def read(
    files: Files, settings: Settings | None = None, since: datetime = START - timedelta(days=1), until: datetime = END
) -> pl.DataFrame:
    source = Source("readings", files, schema, key=("key",))
    return read_rows(source, settings or Settings(), since, until)


def keys(rows: pl.DataFrame) -> list[str]:
    return sorted(rows["key"]) if rows.height else []


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on this machine (with a name that looks like a pattern) and one in an object store."""
    if request.param == "local":
        folder = tmp_path / "in [the] house"
        folder.mkdir()
        yield str(folder)
        return
    store = fsspec.filesystem("memory")
    yield "memory://bucket/house"
    store.rm("/bucket", recursive=True)


@pytest.fixture
def put(place: str) -> Callable[[str, pl.DataFrame | bytes], None]:
    """Puts a frame or bytes as a file below the place."""

    def write(name: str, content: pl.DataFrame | bytes) -> None:
        with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
            if isinstance(content, bytes):
                file.write(content)
            elif name.endswith(".parquet"):
                content.write_parquet(file)
            else:
                content.write_csv(file)

    return write


@pytest.fixture
def settings(place: str) -> Settings:
    return Settings(places={"house": place})


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_file_is_read_with_its_two_times(put, settings, name):
    put(name, frame(0, 1))
    rows = read(Files(name, "house"), settings)
    assert rows.select("key", "event_time", "known_at", "reading").rows() == [
        ("k0", at(0), at(1 / 24), 0.0),
        ("k1", at(1), at(1 + 1 / 24), 1.0),
    ]
    assert (rows.schema["event_time"], rows.schema["known_at"]) == (INSTANT, INSTANT)


def test_only_the_rows_of_the_range_are_read(put, settings):
    put("rows.csv", frame(0, 1, 2))
    last = at(1) + timedelta(hours=1)
    assert keys(read(Files("rows.csv", "house"), settings, at(1 / 24), last)) == ["k1"]


def test_a_folder_gives_its_files_at_any_depth_but_what_is_hidden_or_of_another_kind(put, settings):
    put("in/a.csv", frame(0))
    put("in/deep/b.parquet", frame(1))
    put("in/_delta_log/c.parquet", frame(2))
    put("in/.d.csv", frame(3))
    put("in/README.txt", b"hello")
    assert keys(read(Files("in", "house"), settings)) == ["k0", "k1"]


def test_a_place_alone_is_the_folder(put, settings):
    put("a.csv", frame(0))
    assert keys(read(Files("", "house"), settings)) == ["k0"]


def test_a_pattern_takes_the_files_it_means(put, settings):
    put("a1.csv", frame(0))
    put("a2.csv", frame(1))
    put("b1.csv", frame(2))
    assert keys(read(Files("a*.csv", "house"), settings)) == ["k0", "k1"]


def test_a_path_needs_no_place(put, place):
    put("a.csv", frame(0))
    assert keys(read(Files(f"{place.replace('[', '[[]')}/a.csv"))) == ["k0"]


def test_a_compressed_csv_is_read(put, settings):
    put("a.csv.gz", gzip.compress(frame(0).write_csv().encode()))
    assert keys(read(Files("a.csv.gz", "house"), settings)) == ["k0"]


def test_a_date_in_the_name_chooses_the_files(put, settings):
    for day in range(4):
        put(f"{at(day):%Y/%m}/{at(day):%Y%m%d}.csv", frame(day))
    put("2024/01/20240103.csv", b"never opened")
    assert keys(read(Files("%Y/%m/%Y%m%d.csv", "house"), settings, at(0), at(1.5))) == ["k0", "k1"]


@pytest.mark.parametrize(
    ("pattern", "name"), [("%Y.csv", "2024.csv"), ("%Y-%m.csv", "2024-01.csv"), ("%Y%m%dT%H.csv", "20240101T00.csv")]
)
def test_a_name_may_hold_a_year_a_month_or_an_hour(put, settings, pattern, name):
    put(name, frame(0))
    assert keys(read(Files(pattern, "house"), settings)) == ["k0"]
    assert read(Files(pattern, "house"), settings, at(400), at(500)).is_empty()


def test_a_dated_folder_holds_the_files_of_its_day(put, settings):
    put("day=2024-01-01/part-0.parquet", frame(0))
    put("day=2024-01-02/part-0.parquet", frame(1))
    assert keys(read(Files("day=%Y-%m-%d", "house"), settings, at(1), at(2))) == ["k1"]


def test_a_row_known_on_another_day_than_its_file_says_stops_the_read(put, settings):
    put("2024-01-01.csv", frame(0, 1.5))
    with pytest.raises(SourceError, match=r"another time than its name says.*2024-01-02 13:00.*late=.*") as error:
        read(Files("%Y-%m-%d.csv", "house"), settings)
    assert "2024-01-01.csv" in str(error.value)


def test_late_says_how_long_after_its_day_a_row_may_become_known(put, settings):
    put("2024-01-01.csv", frame(0, 1.5))
    files = Files("%Y-%m-%d.csv", "house", late=timedelta(days=1))
    assert keys(read(files, settings, at(1.2), at(2))) == ["k1.5"]


def test_a_name_that_matches_but_is_no_date_is_told(put, settings):
    put("2024-13-01.csv", frame(0))
    with pytest.raises(SourceError, match=r"holds no date.*2024-13-01\.csv"):
        read(Files("%Y-%m-%d.csv", "house"), settings)


def test_without_a_known_at_a_file_was_known_when_it_was_written(tmp_path):
    path = tmp_path / "planes.csv"
    path.write_text("key,reading\na,1.5\n")
    os.utime(path, (at(5).timestamp(), at(5).timestamp()))
    files = Files(path, known_at=None, event_time="known_at")
    assert read(files)["known_at"].to_list() == [at(5)]
    assert read(files, since=at(5), until=END).is_empty()


def test_two_columns_become_the_two_times(put, settings):
    put("a.csv", frame(0).rename({"event_time": "happened", "known_at": "told"}))
    rows = read(Files("a.csv", "house", event_time="happened", known_at="told"), settings)
    assert set(rows.columns) == {"key", "event_time", "known_at", "reading"}


def test_prepare_makes_the_rows_of_a_file_the_sources(put, settings):
    put("a.csv", b"day,key,reading\n2024-01-01,a,1.5\n")

    def prepare(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(event_time="day", known_at="day").drop("day")

    assert read(Files("a.csv", "house", prepare=prepare), settings)["event_time"].to_list() == [at(0)]


def test_types_name_the_columns_that_are_read(put, settings):
    put("a.csv", "\n".join((*LINES, "")).encode())
    types = {"key": pl.String, "event_time": pl.Datetime("us", "UTC"), "known_at": pl.String}
    assert read(Files("a.csv", "house", types=types), settings).columns == ["key", "event_time", "known_at"]


def test_a_text_of_digits_stays_a_text(put, settings):
    put("a.csv", f"{LINES[0]}\n007,2024-01-01,2024-01-01,1.5\n".encode())
    assert keys(read(Files("a.csv", "house"), settings)) == ["007"]


def test_a_column_without_fractions_or_values_in_one_file_has_the_schemas_type(put, settings):
    put("a.csv", f"{LINES[0]}\na,2024-01-01,2024-01-01,1\n".encode())
    put("b.csv", f"{LINES[0]}\nb,2024-01-01,2024-01-01,\n".encode())
    rows = read(Files("*.csv", "house"), settings)
    assert (rows.schema["reading"], rows.sort("key")["reading"].to_list()) == (pl.Float64, [1.0, None])


@pytest.mark.parametrize(
    ("text", "declared", "value"),
    [
        ("1.0", pl.Int64, 1),
        ("0", pl.Boolean, False),
        ("true", pl.Boolean, True),
        ("0.1", pl.Float32, pytest.approx(0.1)),
        ("12.5", pl.Decimal(10, 2), Decimal("12.50")),
        ("2024-02-29", pl.Date, date(2024, 2, 29)),
        ("2024-02-29T12:00:00Z", INSTANT, datetime(2024, 2, 29, 12, tzinfo=UTC)),
    ],
)
def test_a_value_of_a_csv_has_the_schemas_type(put, settings, text, declared, value):
    put("a.csv", f"key,event_time,known_at,value\na,2024-01-01,2024-01-01,{text}\n".encode())
    source = Source(
        "s", Files("a.csv", "house"), lambda: pa.DataFrameSchema({"value": pa.Column(declared)}), key=("key",)
    )
    rows = read_rows(source, settings, START - timedelta(days=1), END)
    assert (rows.schema["value"], rows["value"].to_list()) == (declared, [value])


def test_a_word_where_the_schema_has_a_number_is_told_by_the_validation(put, settings, tmp_path):
    put("a.csv", "\n".join((*LINES, "b,2024-01-01,2024-01-01,high", "")).encode())
    source = Source("readings", Files("a.csv", "house"), schema, key=("key",))
    with pytest.raises(SourceError, match="the column reading is String, not Float64"):
        ingest_source(source, Lake(str(tmp_path / "lake")), settings, since=None, as_of=END)


def test_a_null_value_is_missing(put, settings):
    put("a.csv", f"{LINES[0]}\na,2024-01-01,2024-01-01,NA\n".encode())
    assert read(Files("a.csv", "house", null_values=("NA",)), settings)["reading"].to_list() == [None]


def test_a_time_that_cannot_be_read_is_a_row_for_the_quarantine(put, settings, tmp_path):
    text = "\n".join((*LINES, "b,soon,2024-01-01,1", "c,2024-01-01,,1", ""))
    put("a.csv", text.encode())
    source = Source("readings", Files("a.csv", "house"), schema, key=("key",))
    lake = Lake(str(tmp_path / "lake"))
    result = ingest_source(source, lake, settings, since=None, as_of=END)
    assert (result.written, result.quarantined) == (1, 2)


WHOLE = "\n".join((*LINES, "")).encode()
PARQUET = b"PAR1" + bytes(100)
BROKEN = {
    "0 bytes": ("a.csv", b"", r"empty \(0 bytes\)"),
    "0 bytes of Parquet": ("a.parquet", b"", r"empty \(0 bytes\)"),
    "a header only": ("a.csv", WHOLE[: WHOLE.index(b"\n") + 1], "has no rows"),
    "a cut last line": ("a.csv", WHOLE[:-5], "last line does not end"),
    "a cut value": ("a.csv", WHOLE[:-1], "last line does not end"),
    "a cut archive": ("a.csv.gz", gzip.compress(WHOLE * 50)[:-12], "cannot read a file"),
    "no footer": ("a.parquet", PARQUET, "must end with PAR1"),
    "a line too long": ("a.csv", WHOLE + b"b,2024-01-01,2024-01-01,1,2,3\n", "more fields"),
    "no text": ("a.csv", b"\xff\xfe\x00\x01\n\xff\n", "cannot read a file|has no column"),
    "no time column": ("a.csv", b"key,reading\na,1\n", "no column event_time, known_at"),
    "numbers as times": ("a.csv", b"key,event_time,known_at\na,1,2\n", "No value of the column known_at"),
    "no time at all": ("a.csv", b"key,event_time,known_at\na,01/02/24,01/02/24\n", "No value of the column"),
}


@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_file_stops_the_read_and_is_named(put, settings, fault):
    name, content, message = BROKEN[fault]
    put("whole.csv", WHOLE)
    put(name, content)
    with pytest.raises(SourceError, match=message) as error:
        read(Files("", "house"), settings)
    assert f"house/{name}" in str(error.value)


def test_a_frame_of_parquet_without_rows_is_refused_unless_it_may_be_so(put, settings):
    put("a.parquet", frame().cast({"key": pl.String}))
    with pytest.raises(SourceError, match="has no rows"):
        read(Files("a.parquet", "house"), settings)
    assert read(Files("a.parquet", "house", complete=False), settings).is_empty()


def test_a_last_line_without_an_end_is_read_where_that_is_said_to_be_right(put, settings):
    put("a.csv", WHOLE[:-1])
    assert keys(read(Files("a.csv", "house", complete=False), settings)) == ["a"]


def test_files_with_different_columns_are_named(put, settings):
    put("a.csv", frame(0))
    put("b.csv", frame(1).rename({"reading": "value"}))
    with pytest.raises(SourceError, match=r"have the column reading, value.*a\.csv and .*b\.csv differ"):
        read(Files("*.csv", "house"), settings)


def test_a_column_of_another_type_in_one_file_is_named_with_it(put, settings):
    put("a.csv", frame(0).with_columns(extra=1))
    put("b.csv", frame(1).with_columns(extra=pl.lit("x")))
    with pytest.raises(SourceError, match=r"column extra .* Int64 \(.*a\.csv\) and String \(.*b\.csv\)"):
        read(Files("*.csv", "house"), settings)


def test_a_column_that_types_name_and_the_file_lacks_is_told(put, settings):
    put("a.csv", WHOLE)
    with pytest.raises(SourceError, match=r"no column value\..*key, event_time, known_at, reading.*a\.csv"):
        read(Files("a.csv", "house", types={"key": pl.String, "value": pl.Float64}), settings)


@pytest.mark.parametrize("path", ["none.csv", "none", "none/*.csv", "%Y.csv"])
def test_a_missing_file_is_told_with_where_it_was_looked_for(put, settings, path):
    put("other.csv", WHOLE)
    with pytest.raises(SourceError, match=f"Looked at .*house/{path.replace('*', '.')}"):
        read(Files(path, "house"), settings)


def test_an_unknown_place_is_told_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"place 'barn', which MILLRACE_PLACES does not name\. It names house"):
        read(Files("a.csv", "barn"), Settings(places={"house": "/x"}))


@pytest.mark.parametrize("url", ["s3://user:secret@bucket", "nowhere://user:secret@bucket"])
def test_a_store_without_its_driver_is_told_and_no_password(url):
    with pytest.raises(SourceError, match="cannot open its store") as error:
        read(Files("a.csv", "house"), Settings(places={"house": url}))
    assert "secret" not in str(error.value)


def test_a_stores_options_come_from_the_settings(tmp_path):
    settings = Settings(places={"house": str(tmp_path)}, place_options={"house": {"auto_mkdir": True}})
    assert open_shelf("readings", Files("a.csv", "house"), settings).system.auto_mkdir


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"path": ""}, "path or place"),
        ({"path": "%m-%d.csv"}, "date pattern"),
        ({"path": "%Y-%j.csv"}, "date pattern"),
        ({"path": "%Y.csv", "known_at": None}, "known_at must be a column"),
        ({"path": "a.csv", "late": timedelta(-1)}, "late must not be negative"),
    ],
)
def test_a_wrong_declaration_is_told_at_once(given, rule):
    with pytest.raises(UseCaseError, match=rule):
        Files(**given)


def test_files_are_ingested_exactly_once_and_newer_ones_follow(put, settings, tmp_path):
    source = Source("readings", Files("%Y-%m-%d.parquet", "house"), schema, key=("key",))
    lake = Lake(str(tmp_path / "lake"))
    put("2024-01-01.parquet", frame(0, 0.5))
    first = ingest_source(source, lake, settings, since=START, as_of=at(1))
    again = ingest_source(source, lake, settings, since=START, as_of=at(1))
    put("2024-01-02.parquet", frame(1))
    second = ingest_source(source, lake, settings, since=None, as_of=at(2))
    assert [(done.written, done.repeated) for done in (first, again, second)] == [(2, False), (0, True), (1, False)]
