"""Materializing: only what is new, of each entity the newest, and the same whatever the steps."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from returns import DAY, START, Place, outcomes, read_outcomes, shops

from features.asof import FeatureRows
from features.entries import entries
from features.freshness import newest_events
from features.materialize import _reduced, materialize
from features.online_store import entity_key, prefix, unpack
from features.repo import apply, open_store
from features.store import open_rows
from features.tables import build_tables
from features.views import view_layout
from millrace.errors import FeatureError
from pipelines.ingest import ingest_source


def step(place: Place, days: float) -> dict[str, int]:
    at = START + days * DAY
    place.ingest(at)
    build_tables(place.use_case, place.lake, as_of=at)
    return run(place, at)


def run(place: Place, at: datetime) -> dict[str, int]:
    apply(place.use_case, place.settings)
    return {done.view: done.entities for done in materialize(place.use_case, place.settings, as_of=at)}


def stored(place: Place, shop: str) -> Any:
    view = open_store(place.use_case, place.settings).get_feature_view("by_shop")
    rows = open_rows(place.use_case, place.settings)
    (found,) = rows.read([entity_key(prefix(view_layout(view)), [shop])])
    rows.close()
    return found and (found[0], unpack(found[2]))


def expected(place: Place, shop: str, at: datetime) -> Any:
    rows = place.lake.scan("features/shops").filter(pl.col("shop") == shop, pl.col("event_time") <= at)
    row = rows.sort("event_time").last().collect().row(0, named=True)
    micros = int(row["event_time"].timestamp() * 1_000_000)
    return micros, [row["shop_returned"], row["shop_orders"]]


def test_each_step_writes_the_newest_row_of_each_entity(place: Place) -> None:
    for days in (4, 5, 9):
        assert step(place, days) == {"by_shop": 3, "by_pair": 15, "facts": 4 if days == 4 else 0}
        assert stored(place, "s1") == expected(place, "s1", START + days * DAY)


def test_nothing_new_writes_nothing(place: Place) -> None:
    step(place, 4)
    assert run(place, START + 4 * DAY) == {"by_shop": 0, "by_pair": 0, "facts": 0}


def test_only_entities_with_new_rows_are_written(place: Place) -> None:
    step(place, 4)
    at = START + 4 * DAY + DAY / 72
    place.ingest(at)
    build_tables(place.use_case, place.lake, as_of=at)
    assert run(place, at)["by_shop"] == 1


def test_rows_built_ahead_of_time_are_written_when_their_time_has_come(place: Place) -> None:
    place.ingest(START + 9 * DAY)
    build_tables(place.use_case, place.lake, as_of=START + 9 * DAY)
    for days in (4, 6):
        run(place, START + days * DAY)
        assert stored(place, "s1") == expected(place, "s1", START + days * DAY)


def test_a_late_row_that_changes_the_newest_is_written(place: Place) -> None:
    held = replace(
        outcomes, read=lambda since, until: read_outcomes(since, until).filter(pl.col("order_id") != "o0100")
    )
    at = START + 5 * DAY
    use_case = replace(place.use_case, feature_tables=(shops,))
    ingest_source(held, place.lake, place.settings, since=None, as_of=at)
    for name in ("orders", "items"):
        source = next(source for source in place.use_case.sources if source.name == name)
        ingest_source(source, place.lake, place.settings, since=None, as_of=at)
    build_tables(place.use_case, place.lake, as_of=at)
    run(place, at)
    before = stored(place, "s1")
    ingest_source(outcomes, place.lake, place.settings, since=START, as_of=at)
    build_tables(use_case, place.lake, as_of=at)
    run(place, at)
    after = stored(place, "s1")
    assert (after[0], after[1][1]) == (before[0], before[1][1] + 1)


def test_going_back_in_time_takes_nothing_away(place: Place) -> None:
    step(place, 5)
    before = stored(place, "s1")
    assert run(place, START + 4 * DAY) == {"by_shop": 0, "by_pair": 0, "facts": 0}
    assert stored(place, "s1") == before


def test_an_entity_whose_rows_are_not_held_at_once_gets_its_newest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.materialize._READ", 3)
    monkeypatch.setattr("features.materialize._HELD", 4)
    written = step(place, 9)
    assert written["by_shop"] > 3
    for shop in ("s0", "s1", "s2"):
        assert stored(place, shop) == expected(place, shop, START + 9 * DAY)


@pytest.mark.parametrize("days", [5, 9])
def test_the_rows_held_at_once_do_not_grow_with_the_range(
    place: Place, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    held: list[int] = []

    def watched(table: FeatureRows, parts: list[pl.DataFrame], until: datetime) -> pl.DataFrame:
        held.append(sum(part.height for part in parts))
        return _reduced(table, parts, until)

    monkeypatch.setattr("features.materialize._READ", 10)
    monkeypatch.setattr("features.materialize._HELD", 40)
    monkeypatch.setattr("features.materialize._reduced", watched)
    step(place, days)
    assert max(held) < 40 + 10


def test_a_run_that_died_is_simply_run_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = iter(range(100))

    def dies(*arguments: Any, **options: Any) -> Any:
        if next(writes) == 2:
            raise KeyboardInterrupt
        return entries(*arguments, **options)

    monkeypatch.setattr("features.materialize._SLICE", 4)
    monkeypatch.setattr("features.materialize.entries", dies)
    with pytest.raises(KeyboardInterrupt):
        step(place, 5)
    monkeypatch.undo()
    again = run(place, START + 5 * DAY)
    assert again["by_pair"] == 15
    assert stored(place, "s1") == expected(place, "s1", START + 5 * DAY)
    assert run(place, START + 5 * DAY) == {"by_shop": 0, "by_pair": 0, "facts": 0}


def test_the_newest_event_of_each_view_is_noted(place: Place) -> None:
    step(place, 5)
    found = {entry.name: event for entry, event in newest_events(place.use_case, place.settings).items()}
    rows = place.lake.scan("features/shops").select(pl.col("event_time").max()).collect()
    assert found["by_shop"] == rows.item()


@pytest.mark.parametrize(("policy", "written"), [("serve", 3), ("flag", 0)])
def test_expired_rows_are_written_for_a_view_that_serves_them(place: Place, policy: str, written: int) -> None:
    def tagged(source: Any) -> Any:
        objects = list(place.use_case.feature_repo(source))
        objects[2].tags["stale"] = policy
        return objects

    place.ingest(START + 5 * DAY)
    build_tables(place.use_case, place.lake, as_of=START + 5 * DAY)
    changed = Place(replace(place.use_case, feature_repo=tagged), place.settings, place.lake)
    assert run(changed, START + 8 * DAY)["by_shop"] == written


def test_a_view_whose_schema_changed_is_written_anew(place: Place) -> None:
    step(place, 5)

    def fewer(source: Any) -> Any:
        objects = list(place.use_case.feature_repo(source))
        by_shop = objects[2]
        by_shop.features = by_shop.features[:1]
        by_shop.projection.features = by_shop.projection.features[:1]
        objects[-1].feature_view_projections[2].features = by_shop.features
        return objects

    changed = Place(replace(place.use_case, feature_repo=fewer), place.settings, place.lake)
    assert run(changed, START + 5 * DAY)["by_shop"] == 3
    assert stored(changed, "s1")[1] == stored(place, "s1")[1][:1]


def test_a_table_that_was_never_built_is_named(place: Place) -> None:
    apply(place.use_case, place.settings)
    with pytest.raises(FeatureError, match="feature source 'shops' cannot be read"):
        materialize(place.use_case, place.settings, as_of=START)


def test_a_column_that_the_table_lacks_is_named(place: Place) -> None:
    place.ingest(START + 5 * DAY)
    build_tables(place.use_case, place.lake, as_of=START + 5 * DAY)
    rows = place.lake.scan("features/shops").drop("shop_orders").collect()
    place.lake.replace("features/shops", rows)
    apply(place.use_case, place.settings)
    with pytest.raises(FeatureError, match="'by_shop' declares shop_orders, which its table does not have"):
        materialize(place.use_case, place.settings, as_of=START)
