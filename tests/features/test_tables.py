"""Feature tables: an incremental build equals a full one, and keeps what was known before a correction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from returns import DAY, START, Place, items, order_rows, orders, outcomes, pairs, read_outcomes, shops

from features.tables import TableBuild, build_tables, table_name
from millrace import FeatureTable, UseCase
from millrace.errors import FeatureError, NoDataError
from millrace.lake import open_lake
from millrace.settings import Settings
from pipelines.ingest import ingest_source

Tables = Mapping[str, pl.LazyFrame]


def content(place: Place, table: FeatureTable) -> pl.DataFrame:
    rows = place.lake.scan(table_name(table)).collect()
    return rows.sort(rows.columns)


def full(place: Place, as_of: datetime, home: Path) -> Place:
    """The same use case, built once from everything."""
    settings = Settings(home=home)
    other = Place(place.use_case, settings, open_lake(settings, place.use_case.name))
    other.ingest(as_of)
    build_tables(other.use_case, other.lake, as_of=as_of)
    return other


def only(place: Place, *tables: FeatureTable) -> UseCase:
    return replace(place.use_case, feature_tables=tables)


def rows_of(builds: list[TableBuild]) -> dict[str, int]:
    return {build.table: build.rows for build in builds}


def test_builds_in_steps_equal_one_build(place: Place, tmp_path: Path) -> None:
    for day in (3, 4, 6, 9):
        place.ingest(START + day * DAY)
        build_tables(place.use_case, place.lake, as_of=START + day * DAY)
    other = full(place, START + 9 * DAY, tmp_path / "other")
    for table in place.use_case.feature_tables:
        assert content(place, table).equals(content(other, table))


def test_rows_ingested_ahead_of_time_count_once_their_time_has_come(place: Place, tmp_path: Path) -> None:
    place.ingest(START + 9 * DAY)
    for day in (4, 7, 9):
        build_tables(place.use_case, place.lake, as_of=START + day * DAY)
    other = full(place, START + 9 * DAY, tmp_path / "other")
    assert content(place, shops).equals(content(other, shops))


def test_a_build_sees_nothing_that_was_known_later(place: Place) -> None:
    place.ingest(START + 9 * DAY)
    build_tables(place.use_case, place.lake, as_of=START + 5 * DAY)
    assert content(place, shops)["known_at"].max() == START + 5 * DAY


def test_a_late_row_changes_the_rows_of_its_range(place: Place, tmp_path: Path) -> None:
    late = pl.col("order_id") == "o0010"
    held = replace(outcomes, read=lambda since, until: read_outcomes(since, until).filter(~late))
    ingest_source(held, place.lake, place.settings, since=None, as_of=START + 9 * DAY)
    use_case = only(place, shops, pairs)
    build_tables(use_case, place.lake, as_of=START + 9 * DAY)
    ingest_source(outcomes, place.lake, place.settings, since=START, as_of=START + 9 * DAY)
    built = rows_of(build_tables(use_case, place.lake, as_of=START + 9 * DAY))
    other = full(place, START + 9 * DAY, tmp_path / "other")
    assert 0 < built["shops"] < content(place, shops).height
    assert content(place, shops).equals(content(other, shops))
    assert content(place, pairs).equals(content(other, pairs))


def test_nothing_new_writes_nothing(place: Place) -> None:
    place.ingest(START + 5 * DAY)
    first = build_tables(place.use_case, place.lake, as_of=START + 5 * DAY)
    again = build_tables(place.use_case, place.lake, as_of=START + 6 * DAY)
    assert [build.rows for build in again] == [0, 0, 0]
    assert [build.version for build in again] == [build.version for build in first]


def test_a_build_for_an_earlier_moment_takes_nothing_away(place: Place) -> None:
    place.ingest(START + 5 * DAY)
    build_tables(place.use_case, place.lake, as_of=START + 5 * DAY)
    before = content(place, shops)
    build_tables(place.use_case, place.lake, as_of=START + 3 * DAY)
    assert content(place, shops).equals(before)


def latest_readings(tables: Tables) -> pl.LazyFrame:
    return tables["outcomes"].select("shop", "event_time", "known_at", "returned")


def test_a_correction_leaves_the_earlier_value_for_the_time_before_it(place: Place) -> None:
    plain = FeatureTable("plain", latest_readings, (outcomes,), ("shop",), lookback=timedelta(0))
    use_case = only(place, plain)
    place.ingest(START + 5 * DAY)
    build_tables(use_case, place.lake, as_of=START + 5 * DAY)
    first = order_rows(1)["returned"].item()
    corrected = (
        read_outcomes(START, START + 3 * DAY)
        .head(1)
        .with_columns(returned=~pl.col("returned"), known_at=pl.lit(START + 6 * DAY).cast(pl.Datetime("us", "UTC")))
    )
    source = replace(outcomes, read=lambda since, until: corrected)
    ingest_source(source, place.lake, place.settings, since=START + 5 * DAY, as_of=START + 6 * DAY)
    build_tables(use_case, place.lake, as_of=START + 6 * DAY)
    found = content(place, plain).filter(pl.col("event_time") == START, pl.col("shop") == "s0").sort("known_at")
    assert found.select("known_at", "returned").rows() == [(START + 2 * DAY, first), (START + 6 * DAY, not first)]


def test_a_table_whose_code_changed_is_built_anew(place: Place, tmp_path: Path) -> None:
    place.ingest(START + 5 * DAY)
    build_tables(only(place, shops), place.lake, as_of=START + 5 * DAY)

    namespace: dict[str, Any] = {"pl": pl}
    code = "def build(tables):\n    return tables['outcomes'].select('shop', 'event_time', 'known_at', x=pl.lit(1))"
    exec(compile(code, str(tmp_path / "other.py"), "exec"), namespace)
    changed = replace(shops, build=namespace["build"])
    built = build_tables(only(place, changed), place.lake, as_of=START + 5 * DAY)
    assert built[0].rows > 0
    assert place.lake.scan("features/shops").collect_schema().names() == ["shop", "event_time", "known_at", "x"]


def test_a_table_without_lookback_is_built_whole_when_anything_is_new(place: Place) -> None:
    whole = replace(shops, lookback=None)
    use_case = only(place, whole)
    place.ingest(START + 4 * DAY)
    build_tables(use_case, place.lake, as_of=START + 4 * DAY)
    place.ingest(START + 5 * DAY)
    built = build_tables(use_case, place.lake, as_of=START + 5 * DAY)
    assert built[0].rows == content(place, whole).height


def test_a_source_that_was_never_ingested_is_named(place: Place) -> None:
    for source in (orders, items):
        ingest_source(source, place.lake, place.settings, since=None, as_of=START)
    with pytest.raises(NoDataError, match=r"'shops' reads outcomes, of which nothing has been ingested"):
        build_tables(place.use_case, place.lake, as_of=START)


BAD_BUILDS: dict[str, tuple[Callable[[Tables], pl.LazyFrame], str]] = {
    "fails": (lambda tables: tables["nothing"], "cannot be built: KeyError"),
    "fails when collected": (lambda tables: tables["outcomes"].select("nothing"), "cannot be built: ColumnNotFound"),
    "lacks the entity": (lambda tables: tables["outcomes"].drop("shop"), "lacks values in shop"),
    "lacks a time": (lambda tables: tables["outcomes"].drop("known_at"), "lacks values in known_at"),
    "has a null time": (
        lambda tables: tables["outcomes"].with_columns(known_at=pl.lit(None).cast(pl.Datetime("us", "UTC"))),
        "lacks values in known_at",
    ),
}


@pytest.mark.parametrize("kind", list(BAD_BUILDS))
def test_a_build_function_that_is_wrong_is_named_and_writes_nothing(place: Place, kind: str) -> None:
    build, message = BAD_BUILDS[kind]
    place.ingest(START + 5 * DAY)
    with pytest.raises(FeatureError, match=message):
        build_tables(only(place, replace(shops, build=build)), place.lake, as_of=START + 5 * DAY)
    assert not place.lake.exists("features/shops")
