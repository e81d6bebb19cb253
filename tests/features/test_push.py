"""Pushing: into the lake once, online newest first, and the same value offline as online."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from returns import DAY, START, Place, use_case

import features.push
from features.asof import latest
from features.catalog import read_catalog
from features.materialize import materialize
from features.online import open_reader
from features.online_store import Entry, entity_key, is_live, micros, prefix, unpack
from features.parity import replayed
from features.plan import read_plan
from features.push import Pushed, push
from features.repo import apply, open_store
from features.sqlite_store import SqliteRows
from features.store import open_rows
from features.tables import build_tables
from features.training_set import historical_features
from features.views import feature_rows
from millrace.errors import FeatureError, RequestError
from millrace.lake import open_lake
from millrace.settings import Settings

BUILT = START + 9 * DAY
NOW = BUILT + timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def build(place: Place) -> None:
    place.ingest(BUILT)
    build_tables(place.use_case, place.lake, as_of=BUILT)
    apply(place.use_case, place.settings)
    materialize(place.use_case, place.settings, as_of=BUILT)


@pytest.fixture
def fresh(place: Place) -> Place:
    """A place that is built and materialized as of BUILT, an hour before NOW."""
    build(place)
    return place


def shop_row(**changes: Any) -> dict[str, Any]:
    return {"shop": "s1", "event_time": NOW - 10 * MINUTE, "shop_returned": 0.9, "shop_orders": 40} | changes


def send(place: Place, *rows: dict[str, Any], now: datetime = NOW) -> Pushed:
    return push(place.use_case, place.settings, "by_shop", rows, now=now)


def online(place: Place, shop: str = "s1", at: datetime = NOW) -> list[Any] | None:
    """What a reader finds: returned and orders of a shop at an instant."""
    (entry,) = (entry for entry in read_catalog(place.use_case, place.settings) if entry.name == "by_shop")
    store = open_rows(place.use_case, place.settings)
    (found,) = store.read([entity_key(prefix(entry.layout), [shop])])
    store.close()
    return unpack(found[2]) if found and is_live(found, micros(at), round(DAY.total_seconds() * 1e6)) else None


def offline(place: Place, shop: str = "s1", at: datetime = NOW) -> list[Any] | None:
    """What the point-in-time join finds: the same two."""
    view = open_store(place.use_case, place.settings).get_feature_view("by_shop")
    table = feature_rows(view, {"shop_returned": "returned", "shop_orders": "orders"}, {})
    found = latest(table, at).filter(pl.col("shop") == shop)
    return list(found.select("shop_returned", "shop_orders").row(0)) if found.height else None


def pushed(place: Place) -> pl.DataFrame:
    return place.lake.scan("pushed/by_shop").collect()


def test_a_pushed_row_is_in_the_lake_and_online(fresh: Place) -> None:
    assert send(fresh, shop_row()) == Pushed("by_shop", rows=1, written=1, online=1, repeated=False)
    assert pushed(fresh).select("shop", "event_time", "known_at").row(0) == ("s1", NOW - 10 * MINUTE, NOW)
    assert online(fresh) == offline(fresh) == [0.9, 40]


def test_a_pushed_value_is_the_same_through_the_reader_and_in_a_training_set(fresh: Place) -> None:
    send(fresh, shop_row())
    plan = read_plan(fresh.use_case, open_store(fresh.use_case, fresh.settings))
    reader = open_reader(plan, fresh.use_case, fresh.settings)
    request = {"shop": "s1", "item": "i0", "price": 1.0, "placed": BUILT}
    ((*read,),) = reader.read([request], at=NOW).values
    reader.close()
    row = historical_features(fresh.use_case, fresh.settings, pl.DataFrame([request | {"event_time": NOW}]))
    assert read == list(row.select(plan.features).row(0))
    assert read[-2:] == [0.9, 40]


def test_before_it_was_pushed_it_was_not_known(fresh: Place) -> None:
    before = offline(fresh)
    send(fresh, shop_row())
    assert offline(fresh, at=NOW - MINUTE) == before
    assert online(fresh, at=NOW - MINUTE) is None


def test_training_rows_after_pushes_replay_to_the_same_values_online(fresh: Place) -> None:
    send(fresh, shop_row(), shop_row(event_time=NOW - 30 * MINUTE, shop_orders=7, known_at=NOW - 20 * MINUTE))
    send(fresh, shop_row(shop_returned=0.2), now=NOW + 5 * MINUTE)
    plan = read_plan(fresh.use_case, open_store(fresh.use_case, fresh.settings))
    asked = pl.DataFrame(
        {"shop": "s1", "item": "i0", "price": 1.0, "placed": BUILT, "event_time": NOW + n * 5 * MINUTE}
        for n in range(-6, 3)
    )
    trained = historical_features(fresh.use_case, fresh.settings, asked)
    assert trained["shop_orders"].to_list()[-5:] == [7, 7, 40, 40, 40]
    assert replayed(fresh.use_case, fresh.settings, plan, trained).mismatches == 0


def test_the_newest_event_is_noted(fresh: Place) -> None:
    send(fresh, shop_row(), shop_row(shop="s2", event_time=NOW - 5 * MINUTE))
    (entry,) = (entry for entry in read_catalog(fresh.use_case, fresh.settings) if entry.name == "by_shop")
    store = open_rows(fresh.use_case, fresh.settings)
    assert store.newest(entry.layout) == micros(NOW - 5 * MINUTE)
    store.close()


def test_other_entities_and_views_are_as_they_were(fresh: Place) -> None:
    before = (offline(fresh, "s0"), online(fresh, "s0"))
    send(fresh, shop_row())
    assert (offline(fresh, "s0"), online(fresh, "s0")) == before


def test_the_same_push_again_changes_nothing_and_says_so(fresh: Place) -> None:
    rows = [shop_row(), shop_row(shop="s2")]
    send(fresh, *rows)
    again = send(fresh, *reversed(rows), now=NOW + MINUTE)
    assert again == Pushed("by_shop", rows=2, written=0, online=2, repeated=True)
    assert pushed(fresh)["known_at"].to_list() == [NOW, NOW]


def test_a_later_event_in_the_store_stays_online(fresh: Place) -> None:
    send(fresh, shop_row())
    late = send(fresh, shop_row(event_time=NOW - 20 * MINUTE, shop_returned=0.1))
    assert (late.written, late.online) == (1, 0)
    assert online(fresh) == offline(fresh) == [0.9, 40]


def test_of_several_rows_of_an_entity_the_newest_stands_online(fresh: Place) -> None:
    rows = [shop_row(event_time=NOW - n * MINUTE, shop_orders=n) for n in (3, 1, 2)]
    assert send(fresh, *rows).online == 1
    assert online(fresh) == offline(fresh) == [0.9, 1]


def test_a_correction_is_a_push_with_a_later_known_time(fresh: Place) -> None:
    send(fresh, shop_row())
    send(fresh, shop_row(shop_returned=0.2), now=NOW + MINUTE)
    assert online(fresh, at=NOW + MINUTE) == offline(fresh, at=NOW + MINUTE) == [0.2, 40]
    assert offline(fresh) == [0.9, 40]


def last_built(place: Place) -> dict[str, Any]:
    rows = place.lake.scan("features/shops").filter(pl.col("shop") == "s1").sort("event_time")
    return rows.last().collect().row(0, named=True)


def test_a_built_row_stands_over_a_pushed_one_of_the_same_times(fresh: Place) -> None:
    row = last_built(fresh)
    assert send(fresh, row | {"shop_orders": 99}) == Pushed("by_shop", 1, 1, 0, False)
    assert online(fresh) == offline(fresh) == [row["shop_returned"], row["shop_orders"]]


def test_a_row_that_is_built_later_stands_over_the_pushed_one_of_the_same_times(fresh: Place) -> None:
    ahead = BUILT + 20 * MINUTE
    times = {"event_time": ahead, "known_at": ahead}
    assert send(fresh, *(shop_row(shop=f"s{n}", **times) for n in range(3))).online == 3
    materialize(fresh.use_case, fresh.settings, as_of=NOW)
    fresh.ingest(NOW)
    build_tables(fresh.use_case, fresh.lake, as_of=NOW)
    materialize(fresh.use_case, fresh.settings, as_of=NOW)
    (built,) = fresh.lake.scan("features/shops").filter(pl.col("event_time") == ahead).collect().rows(named=True)
    assert (
        online(fresh, built["shop"]) == offline(fresh, built["shop"]) == [built["shop_returned"], built["shop_orders"]]
    )
    assert built["shop_returned"] != 0.9


def test_a_repeated_push_does_not_come_back_over_the_one_that_replaced_it(fresh: Place) -> None:
    first, second = shop_row(known_at=NOW - MINUTE), shop_row(known_at=NOW - MINUTE, shop_returned=0.2)
    send(fresh, first)
    send(fresh, second, now=NOW + MINUTE)
    assert send(fresh, first, now=NOW + 2 * MINUTE) == Pushed("by_shop", 1, 0, 0, True)
    assert online(fresh) == offline(fresh) == [0.2, 40]


def test_a_row_ahead_of_its_time_waits_for_a_materialization(fresh: Place) -> None:
    before, soon = offline(fresh), NOW + 4 * MINUTE
    assert send(fresh, shop_row(event_time=soon)).online == 0
    assert online(fresh) == offline(fresh) == before
    materialize(fresh.use_case, fresh.settings, as_of=soon)
    assert online(fresh, at=soon) == offline(fresh, at=soon) == [0.9, 40]


def test_a_build_and_a_rebuild_keep_pushed_rows(fresh: Place) -> None:
    at = BUILT + DAY / 2
    send(fresh, shop_row())
    fresh.ingest(at)
    build_tables(fresh.use_case, fresh.lake, as_of=at)
    fresh.lake.replace("features/shops", fresh.lake.scan("features/shops").collect())  # without marks of a build
    build_tables(fresh.use_case, fresh.lake, as_of=at)
    assert offline(fresh) == [0.9, 40]


def test_feature_tables_hold_no_pushed_rows(fresh: Place) -> None:
    before = fresh.lake.version("features/shops")
    send(fresh, shop_row())
    assert fresh.lake.version("features/shops") == before


def test_an_online_store_that_is_filled_anew_gets_the_pushed_rows(fresh: Place) -> None:
    send(fresh, shop_row())
    store = open_rows(fresh.use_case, fresh.settings)
    store.drop("by_shop")
    store.close()
    materialize(fresh.use_case, fresh.settings, as_of=NOW)
    assert online(fresh) == [0.9, 40]


def test_a_feature_that_the_view_got_later_is_null_in_older_pushes(fresh: Place) -> None:
    send(fresh, shop_row())
    rows = fresh.lake.scan("pushed/by_shop").drop("shop_orders").collect()
    fresh.lake.replace("pushed/by_shop", rows)
    assert offline(fresh) == [0.9, None]


def test_a_feature_whose_type_changed_is_null_in_older_pushes_and_takes_no_new_ones(fresh: Place) -> None:
    send(fresh, shop_row())
    texts = fresh.lake.scan("pushed/by_shop").with_columns(shop_orders=pl.lit("forty")).collect()
    fresh.lake.replace("pushed/by_shop", texts)
    assert offline(fresh) == [0.9, None]
    with pytest.raises(RequestError, match=r"shop_orders is Int64, not String.*a new name") as error:
        send(fresh, shop_row(shop="s2"))
    assert error.value.status == 409


class Down(SqliteRows):
    """A store that does not answer."""

    def write(self, entries: Iterable[Entry]) -> int:
        raise FeatureError("The online store does not answer.")


@pytest.fixture
def down(fresh: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """`fresh` while its online store is down."""
    monkeypatch.setattr(features.push, "open_rows", lambda *_: Down(fresh.settings.home / "down.db"))
    yield fresh
    monkeypatch.undo()


def test_when_the_store_is_down_the_error_says_that_the_lake_has_the_rows(down: Place) -> None:
    with pytest.raises(FeatureError, match=r"in the lake but not online yet: The online store does not answer.*again"):
        send(down, shop_row())
    assert pushed(down).height == 1


def test_a_push_that_did_not_come_online_is_completed_by_the_same_again(
    down: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FeatureError):
        send(down, shop_row())
    monkeypatch.undo()
    assert send(down, shop_row(), now=NOW + MINUTE) == Pushed("by_shop", 1, 0, 1, True)
    assert online(down) == offline(down) == [0.9, 40]


def test_a_push_that_did_not_come_online_is_brought_by_the_next_materialization(
    down: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FeatureError):
        send(down, shop_row())
    monkeypatch.undo()
    materialize(down.use_case, down.settings, as_of=NOW)
    assert online(down) == [0.9, 40]


def test_a_redis_that_does_not_answer_is_such_a_store(fresh: Place) -> None:
    nobody = {"online_store": "redis", "redis_url": "redis://127.0.0.1:1/0"}
    with pytest.raises(FeatureError, match="in the lake but not online yet"):
        send(dataclasses.replace(fresh, settings=fresh.settings.model_copy(update=nobody)), shop_row())
    assert pushed(fresh).height == 1


SENDER = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from returns import use_case
from features.push import push
from millrace.settings import Settings

settings, now = Settings(home=Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2])
for n in range(8):
    row = {"shop": f"k{n}", "event_time": now, "shop_returned": 0.5, "shop_orders": n}
    print(push(use_case, settings, "by_shop", [row], now=now + timedelta(seconds=n)).written, flush=True)
"""


def test_a_sender_that_is_killed_and_runs_again_leaves_what_one_whole_run_leaves(fresh: Place) -> None:
    command = [sys.executable, "-c", SENDER, str(fresh.settings.home), NOW.isoformat()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for pushes, wait in ((1, 0.0), (4, 0.015)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as sender:
            assert sender.stdout is not None
            for _ in range(pushes):
                assert sender.stdout.readline()
            time.sleep(wait)
            sender.kill()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    rows = pushed(fresh).sort("shop").select("shop", "shop_orders", "known_at").rows()
    assert rows == [(f"k{n}", n, NOW + timedelta(seconds=n)) for n in range(8)]
    assert [online(fresh, f"k{n}", NOW + MINUTE) for n in range(8)] == [[0.5, n] for n in range(8)]


def test_of_several_senders_of_the_same_rows_one_writes_them(fresh: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = [future.result() for future in [pool.submit(send, fresh, shop_row()) for _ in range(4)]]
    assert sorted(one.repeated for one in done) == [False, True, True, True]
    assert pushed(fresh).height == 1


def test_several_senders_of_different_rows_all_write_them(fresh: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(send, fresh, shop_row(shop=f"n{n}")) for n in range(4)]:
            assert future.result().online == 1
    assert sorted(pushed(fresh)["shop"]) == ["n0", "n1", "n2", "n3"]


def test_rows_may_come_in_a_file(fresh: Place, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "shop,event_time,shop_returned,shop_orders\ns1,2024-01-10T00:50:00Z,0.9,40\ns2,2024-01-10T00:50:00Z,,3\n"
    )
    assert push(fresh.use_case, fresh.settings, "by_shop", path, now=NOW).written == 2
    assert (online(fresh), online(fresh, "s2")) == ([0.9, 40], [None, 3])


def test_rows_reach_redis_too(place: Place, needs_redis: Settings) -> None:
    settings = place.settings.model_copy(
        update={name: getattr(needs_redis, name) for name in ("online_store", "redis_url", "redis_prefix")}
    )
    on_redis = dataclasses.replace(place, settings=settings)
    build(on_redis)
    send(on_redis, shop_row())
    assert online(on_redis) == offline(on_redis) == [0.9, 40]


def test_a_row_that_does_not_fit_leaves_nothing_behind(fresh: Place) -> None:
    with pytest.raises(RequestError, match="shop_orders of row 1"):
        send(fresh, shop_row(), shop_row(shop="s2", shop_orders="many"))
    assert not fresh.lake.exists("pushed/by_shop")


def test_an_unknown_view_is_404_and_names_those_there_are(fresh: Place) -> None:
    with pytest.raises(RequestError, match="by_pair, by_shop, facts") as error:
        push(fresh.use_case, fresh.settings, "by_shops", [shop_row()], now=NOW)
    assert (error.value.status, error.value.field) == (404, "view")


def test_a_view_outside_the_lake_cannot_be_pushed_to(fresh: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tuple(dataclasses.replace(entry, table="") for entry in read_catalog(fresh.use_case, fresh.settings))
    monkeypatch.setattr(features.push, "read_catalog", lambda *_: elsewhere)
    with pytest.raises(RequestError, match="do not lie in the lake"):
        send(fresh, shop_row())


def test_views_that_were_never_applied_are_an_error_that_says_what_to_type(place: Place) -> None:
    with pytest.raises(FeatureError, match="millrace materialize returns"):
        send(place, shop_row())


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a place that is built, to be copied."""
    settings = Settings(home=tmp_path_factory.mktemp("sample"))
    build(Place(use_case, settings, open_lake(settings, use_case.name)))
    return settings.home


PUSHES = st.lists(
    st.tuples(
        st.sampled_from(["s1", "s9"]),
        st.integers(-3, 4).map(lambda n: NOW + n * MINUTE),
        st.none() | st.integers(-2, 0).map(lambda n: NOW + n * MINUTE),
        st.integers(0, 2),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(PUSHES)
@examples(max_examples=12)
def test_whatever_is_pushed_in_whatever_order_online_equals_offline(
    sample: Path, pushes: list[tuple[str, datetime, datetime | None, int, bool]]
) -> None:
    import shutil

    with tempfile.TemporaryDirectory() as folder:
        home = Path(shutil.copytree(sample, f"{folder}/home"))
        settings = Settings(home=home)
        place = Place(use_case, settings, open_lake(settings, use_case.name))
        apply(place.use_case, settings)
        now = NOW
        for shop, event, known, orders, materialized in pushes:
            now += timedelta(seconds=7)
            row = shop_row(shop=shop, event_time=event, shop_orders=orders)
            send(place, row | ({"known_at": known} if known else {}), now=now)
            if materialized:
                materialize(place.use_case, settings, as_of=now)
        end = NOW + 5 * MINUTE
        materialize(place.use_case, settings, as_of=end)
        for shop in ("s1", "s9", "s0"):
            assert online(place, shop, end) == offline(place, shop, end)
