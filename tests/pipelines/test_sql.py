"""A database as a source: the same rows on SQLite and PostgreSQL, whatever the size of a page, and no secret told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from millrace import Source
from millrace.errors import SettingsError, SourceError, UseCaseError
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.source import Query
from pipelines.ingest import ingest_source, read_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(days=60)
INSTANT = pl.Datetime("us", "UTC")
DECLARED: dict[str, Any] = {"key": pl.String, "event_time": INSTANT, "known_at": INSTANT}


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def schema(types: dict[str, Any]) -> Any:
    return pa.DataFrameSchema({name: pa.Column(kind, nullable=True) for name, kind in types.items()})


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("needs_postgres"))
    path = tmp_path / "shop.db"
    sqlite3.connect(path).close()
    return f"sqlite:///{path}"


@pytest.fixture
def execute(url: str) -> Callable[..., None]:
    """Runs statements in the database, the last of them for each of the rows."""

    def run(*statements: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for statement in statements[:-1]:
                connection.execute(sa.text(statement))
            connection.execute(sa.text(statements[-1]), *([list(rows)] if rows else []))
        engine.dispose()

    return run


@pytest.fixture
def orders(
    url: str, execute: Callable[..., None]
) -> Callable[[Sequence[tuple[str | None, float | None, float]]], None]:
    """Puts rows (key, hour known, reading) into the table `orders`."""
    stamp = "TEXT" if url.startswith("sqlite") else "TIMESTAMPTZ"

    def put(values: Sequence[tuple[str | None, float | None, float]]) -> None:
        execute(
            "DROP TABLE IF EXISTS orders",
            f"CREATE TABLE orders (key TEXT, event_time {stamp}, known_at {stamp}, reading DOUBLE PRECISION)",
        )
        rows = [
            {"key": key, "event": str(START), "known": None if hour is None else str(at(hour)), "reading": reading}
            for key, hour, reading in values
        ]
        if rows:
            insert = "INSERT INTO orders VALUES (:key, :event, :known, :reading)"
            execute(
                insert.replace(":event", _cast(":event", stamp)).replace(":known", _cast(":known", stamp)), rows=rows
            )

    return put


def _cast(name: str, stamp: str) -> str:
    return name if stamp == "TEXT" else f"CAST({name} AS {stamp})"


def read(
    url: str,
    sql: str = "orders",
    *,
    since: datetime = START - timedelta(days=1),
    until: datetime = END,
    types: dict[str, Any] | None = None,
    **options: Any,
) -> pl.DataFrame:
    declared = DECLARED | {"reading": pl.Float64} if types is None else types
    source = Source("orders", Query("shop", sql, **options), lambda: schema(declared), key=("key",))
    return read_rows(source, Settings(places={"shop": url}), since, until)


def keys(rows: pl.DataFrame) -> list[str]:
    return rows["key"].to_list() if rows.height else []


def test_a_table_is_read_with_its_two_times(url, orders):
    orders([("a", 1, 1.5), ("b", 2, 2.5)])
    rows = read(url)
    assert rows.rows() == [("a", START, at(1), 1.5), ("b", START, at(2), 2.5)]
    assert (rows.schema["event_time"], rows.schema["known_at"]) == (INSTANT, INSTANT)


def test_only_the_rows_of_the_range_are_read(url, orders):
    orders([("a", 1, 0), ("b", 2, 0), ("c", 3, 0), ("d", 3.0001, 0)])
    assert keys(read(url, since=at(1), until=at(3))) == ["b", "c"]


def test_a_row_that_nobody_knows_yet_is_not_read(url, orders):
    orders([("a", None, 0), ("b", 2, 0)])
    assert keys(read(url)) == ["b"]


@pytest.mark.parametrize("values", [[], [("a", None, 0.0)]])
def test_a_table_without_known_rows_gives_none(url, orders, values):
    orders(values)
    assert read(url).is_empty()


def test_a_select_may_hold_colons_and_percents(url, orders):
    orders([("a:b %", 1, 1), ("b", 2, 2)])
    sql = "SELECT * FROM orders -- a note: :x\n WHERE key LIKE '%:b %' AND CAST(reading AS INTEGER) = 1 ;"
    assert keys(read(url, sql)) == ["a:b %"]


def test_a_select_names_its_columns(url, orders):
    orders([("a", 1, 1.5)])
    sql = 'SELECT key, event_time AS "When", known_at AS "Told", reading * 2 AS reading FROM orders'
    assert read(url, sql, event_time="When", known_at="Told").select("key", "reading").rows() == [("a", 3.0)]


def test_prepare_makes_the_rows_of_a_table_the_sources(url, orders):
    orders([("a", 1, 1.5)])
    rows = read(url, prepare=lambda rows: rows.with_columns(pl.col("key").str.to_uppercase()))
    assert keys(rows) == ["A"]


TIES = [("e", 1, 0), ("a", 2, 0), ("c", 2, 0), ("b", 2, 0), (None, 2, 1), (None, 2, 2), ("d", 2, 0), ("f", 3, 0)]


@pytest.mark.parametrize("page_rows", [1, 2, 3, 7, 8, 100])
def test_the_size_of_a_page_does_not_matter(url, orders, page_rows):
    orders([*TIES, ("b", 2, 0), ("b", 2, 0)])
    whole = read(url)
    assert whole.height == 10
    paged = read(url, page_rows=page_rows)
    assert paged.sort("known_at", "key", "reading").equals(whole.sort("known_at", "key", "reading"))


@given(
    st.lists(st.tuples(st.sampled_from([None, "", "a", "B", "é"]), st.sampled_from([1.0, 2.0, 2.5]), st.just(0.0))),
    st.integers(1, 6),
)
def test_no_row_is_lost_or_read_twice_at_any_size_of_a_page(values, page_rows):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shop.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE orders (key, event_time, known_at, reading)")
        rows = [(key, str(START), str(at(hour)), reading) for key, hour, reading in values]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
        connection.commit()
        connection.close()
        assert read(f"sqlite:///{path}", page_rows=page_rows).height == len(values)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("page_rows", [1, 2, 3])
def test_keys_that_the_database_calls_equal_are_all_read(url, execute, page_rows):
    values = ", ".join(f"('{key}', '2024-01-01', '2024-01-01')" for key in "aAbBc")
    execute(
        "CREATE TABLE orders (key TEXT COLLATE NOCASE, event_time TEXT, known_at TEXT)",
        f"INSERT INTO orders VALUES {values}",
    )
    assert sorted(keys(read(url, types=DECLARED, page_rows=page_rows))) == ["A", "B", "a", "b", "c"]


def test_types_do_not_depend_on_the_page(url, orders, execute):
    orders([("a", 1, 1), ("b", 2, 2.5)])
    execute("UPDATE orders SET reading = NULL WHERE key = 'a'")
    assert read(url, page_rows=1)["reading"].to_list() == [None, 2.5]


def test_a_column_without_a_value_has_the_schemas_type(url, orders, execute):
    orders([("a", 1, 1)])
    execute("UPDATE orders SET reading = NULL")
    assert read(url).schema["reading"] == pl.Float64


@pytest.mark.parametrize(
    ("kind", "text", "declared", "value"),
    [
        ("NUMERIC(10,2)", "12.50", pl.Float64, 12.5),
        ("BOOLEAN", "true", pl.Boolean, True),
        ("DATE", "'2024-02-29'", pl.Date, date(2024, 2, 29)),
        ("TIMESTAMP", "'2024-02-29 12:00:00'", INSTANT, datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("INTEGER", "7", pl.Int64, 7),
        ("SMALLINT", "7", pl.Float64, 7.0),
        ("BIGINT", "7", pl.Int32, 7),
        ("VARCHAR(9)", "'007'", pl.String, "007"),
    ],
)
def test_a_column_has_the_type_that_a_user_expects(url, execute, kind, text, declared, value):
    execute(
        f"CREATE TABLE orders (key TEXT, event_time TEXT, known_at TEXT, value {kind})",
        f"INSERT INTO orders VALUES ('a', '2024-01-01', '2024-01-01', {text})",
    )
    rows = read(url, types=DECLARED | {"value": declared})
    assert (rows.schema["value"], rows["value"].to_list()) == (declared, [value])


def test_a_value_that_does_not_fit_the_schema_stays_for_the_validation(url, execute):
    execute(
        "CREATE TABLE orders (key TEXT, event_time TEXT, known_at TEXT, value DOUBLE PRECISION)",
        "INSERT INTO orders VALUES ('a', '2024-01-01', '2024-01-01', 7.5)",
    )
    rows = read(url, types=DECLARED | {"value": pl.Int64})
    assert (rows.schema["value"], rows["value"].to_list()) == (pl.Float64, [7.5])


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02T03:04:05Z",
        "2024-01-02 03:04:05",
        "2024-01-02 03:04:05.000",
        "2024-01-02T05:04:05+02:00",
        "2024-01-01 17:04:05-10:00",
        "2024-01-02T17:04:05+14:00",
    ],
)
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_time_may_be_text_in_any_iso_form(url, execute, text):
    execute(
        "CREATE TABLE orders (key TEXT, event_time TEXT, known_at TEXT)",
        f"INSERT INTO orders VALUES ('a', '2024-01-01', '{text}'), ('b', '2024-01-01', '2024-01-02 03:04:06')",
    )
    moment = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = read(url, since=moment - timedelta(seconds=1), until=moment, types=DECLARED)
    assert rows.select("key", "known_at").rows() == [("a", moment)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_time_that_is_a_number_is_told_how_to_write_it(url, execute):
    execute(
        "CREATE TABLE orders (key TEXT, event_time INTEGER, known_at INTEGER)",
        "INSERT INTO orders VALUES ('a', 1704067200, 1704067200)",
    )
    with pytest.raises(SourceError, match=r"known_at .* holds no times, but int\. .*unixepoch"):
        read(url, types=DECLARED)
    times = ", ".join(f"datetime({name}, 'unixepoch') AS {name}" for name in ("event_time", "known_at"))
    assert read(url, f"SELECT key, {times} FROM orders", types=DECLARED)["known_at"].to_list() == [START]


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_a_time_is_utc_whatever_the_zone_of_the_server(needs_postgres, kind):
    engine = sa.create_engine(needs_postgres)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE orders (key TEXT, event_time {kind}, known_at {kind})"))
        connection.execute(sa.text("SET TIME ZONE 'UTC'"))
        connection.execute(sa.text("INSERT INTO orders VALUES ('a', '2024-01-01 01:00', '2024-01-01 01:00')"))
        name = connection.execute(sa.text("SELECT current_database()")).scalar()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'"))
    engine.dispose()
    rows = read(needs_postgres, since=START, until=at(1), types=DECLARED)
    assert rows["known_at"].to_list() == [at(1)]


@pytest.mark.parametrize(
    ("since", "until", "found"), [(0, 24, ["b"]), (-1, 23, ["a"]), (0, 23, []), (1, 48, ["b", "c"])]
)
def test_a_date_is_known_at_its_midnight(needs_postgres, since, until, found):
    engine = sa.create_engine(needs_postgres)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (key TEXT, event_time DATE, known_at DATE)"))
        days = "('a', '2024-01-01', '2024-01-01'), ('b', '2024-01-02', '2024-01-02'), ('c', '2024-01-03', '2024-01-03')"
        connection.execute(sa.text(f"INSERT INTO orders VALUES {days}"))
    engine.dispose()
    assert keys(read(needs_postgres, since=at(since), until=at(until), types=DECLARED)) == found


def test_ids_enums_decimals_and_lists_of_postgres_page_and_arrive(needs_postgres):
    engine = sa.create_engine(needs_postgres)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TYPE size AS ENUM ('small', 'big')"))
        connection.execute(
            sa.text(
                "CREATE TABLE orders (key UUID, size size, price NUMERIC, tags TEXT[], event_time DATE, known_at DATE)"
            )
        )
        same = "ARRAY['x'], '2024-01-01', '2024-01-01'"
        a, b = (f"00000000-0000-0000-0000-00000000000{n}" for n in "12")
        values = f"('{a}', 'big', 'NaN', {same}), ('{a}', 'small', 1.25, {same}), ('{b}', 'big', 3, {same})"
        connection.execute(sa.text(f"INSERT INTO orders VALUES {values}"))
    engine.dispose()
    query = Query("shop", "orders", page_rows=1)
    source = Source("orders", query, lambda: schema(DECLARED), key=("key", "size"))
    rows = read_rows(source, Settings(places={"shop": needs_postgres}), START - timedelta(1), END)
    assert rows.select("key", "size").rows() == [(a, "small"), (a, "big"), (b, "big")]
    assert (rows.schema["price"], rows["tags"].to_list()) == (pl.Float64, [["x"]] * 3)


def test_postgres_lets_a_query_write_nothing(needs_postgres):
    engine = sa.create_engine(needs_postgres)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SEQUENCE counter"))
    engine.dispose()
    sql = "SELECT CAST(nextval('counter') AS TEXT) AS key, now() AS event_time, now() AS known_at"
    with pytest.raises(SourceError, match="read-only transaction"):
        read(needs_postgres, sql, until=datetime(2999, 1, 1, tzinfo=UTC), types=DECLARED)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_column_of_several_types_is_named(url, execute):
    execute(
        "CREATE TABLE orders (key TEXT, event_time TEXT, known_at TEXT, value)",
        "INSERT INTO orders VALUES ('a', '2024-01-01', '2024-01-01', 1), ('b', '2024-01-01', '2024-01-02', 'x')",
    )
    for page_rows in (1, 10):
        with pytest.raises(SourceError, match="column value of source 'orders'"):
            read(url, types=DECLARED, page_rows=page_rows)


def test_a_missing_table_is_told(url):
    with pytest.raises(
        SourceError, match=r"cannot read its database: .*(no such table: orders|\"orders\" does not exist)"
    ):
        read(url)


def test_a_missing_column_is_told_with_those_there_are(url, orders):
    orders([("a", 1, 1)])
    with pytest.raises(SourceError, match=r"no column told\. .*key, event_time, known_at, reading.* known_at='…'"):
        read(url, known_at="told")
    with pytest.raises(SourceError, match=r"no column happened\."):
        read(url, event_time="happened")


def test_an_unknown_place_is_told():
    source = Source("orders", Query("shop", "orders"), lambda: schema(DECLARED), key=("key",))
    with pytest.raises(SettingsError, match="MILLRACE_PLACES does not name"):
        read_rows(source, Settings(), START, END)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/shop?sslcert=hunter2", "cannot read its database"),
        ("postgresql://me:hunter2@127.0.0.1/shop", "cannot load its database's driver"),
        ("oracle9000://me:hunter2@127.0.0.1/shop", "cannot load its database's driver"),
        ("me:hunter2@127.0.0.1", "is no database's URL"),
        ("sqlite:////nowhere/hunter.db", "does not exist"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_without_its_password(place, says):
    with pytest.raises(SourceError, match=says) as error:
        read(place)
    assert "hunter2" not in str(error.value)


def test_the_places_never_show_in_print():
    settings = Settings(places={"shop": "postgresql+psycopg://me:hunter2@h/s"}, place_options={"s": {"key": "hunter2"}})
    assert "hunter2" not in repr(settings) + str(settings)


@pytest.mark.parametrize("given", [{"place": ""}, {"sql": " "}, {"page_rows": 0}])
def test_a_wrong_declaration_is_told_at_once(given):
    with pytest.raises(UseCaseError, match="Query"):
        Query(**({"place": "shop", "sql": "orders"} | given))


def test_a_correction_is_read_by_the_next_ingest_and_wins(url, orders, execute, tmp_path):
    orders([("a", 1, 1.0), ("b", 2, 2.0)])
    source = Source("orders", Query("shop", "orders"), lambda: schema(DECLARED), key=("key",))
    lake, settings = Lake(str(tmp_path / "lake")), Settings(places={"shop": url})
    ingest_source(source, lake, settings, since=START, as_of=at(2))
    orders([("a", 5, 7.0), ("b", 2, 2.0)])
    assert ingest_source(source, lake, settings, since=None, as_of=at(6)).written == 1
    assert lake.scan("raw/orders").select("key", "reading").sort("key").collect().rows() == [("a", 7.0), ("b", 2.0)]
