"""Our online stores under Feast's own SDK, and the reader beside them: the same rows, the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from returns import DAY, START, Place

from features.materialize import materialize
from features.online import open_reader
from features.plan import read_plan
from features.repo import open_store
from features.store import open_rows, repo_folder

END = START + 9 * DAY
ROWS = [
    {"shop": f"s{n % 4}", "item": f"i{n % 6}", "price": float(n), "placed": START + n * timedelta(hours=5)}
    for n in range(12)
]


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest, built: Place) -> Iterator[Place]:
    """The built place with an empty online store."""
    settings = built.settings
    if request.param == "redis":
        redis = request.getfixturevalue("needs_redis")
        settings = settings.model_copy(
            update={"online_store": "redis", "redis_url": redis.redis_url, "redis_prefix": redis.redis_prefix}
        )
    yield Place(built.use_case, settings, built.lake)
    for path in repo_folder(built.use_case, settings).glob("online.db*"):
        path.unlink()


def answer(place: Place, at: datetime, features: Any = None) -> dict[str, list[Any]]:
    store = open_store(place.use_case, place.settings, at=at)
    found: dict[str, list[Any]] = store.get_online_features(
        features or store.get_feature_service("returns"), [dict(row) for row in ROWS]
    ).to_dict()
    return found


def by_reader(place: Place, at: datetime) -> dict[str, list[Any]]:
    plan = read_plan(place.use_case, open_store(place.use_case, place.settings))
    reader = open_reader(plan, place.use_case, place.settings)
    rows = reader.read(ROWS, at=at)
    reader.close()
    return {name: [row[n] for row in rows.values] for n, name in enumerate(plan.features)}


def test_the_plain_sdk_and_the_reader_give_the_same_values(online: Place) -> None:
    materialize(online.use_case, online.settings, as_of=END)
    found = answer(online, END)
    ours = by_reader(online, END)
    assert {name: found[name] for name in ours} == ours
    assert any(value is not None for value in ours["pair_returned"])


def test_feasts_own_materialize_writes_what_ours_writes(online: Place) -> None:
    store = open_store(online.use_case, online.settings)
    store.materialize(START - 60 * DAY, END, disable_event_timestamp=False)
    found = by_reader(online, END)
    open_rows(online.use_case, online.settings).drop("by_shop")
    materialize(online.use_case, online.settings, as_of=END)
    assert by_reader(online, END) == found


def test_the_plain_sdk_reads_nothing_past_its_ttl(online: Place) -> None:
    materialize(online.use_case, online.settings, as_of=END)
    later = answer(online, END + 2 * DAY, ["by_shop:shop_orders", "facts:weight"])
    assert set(later["shop_orders"]) == {None}
    assert set(later["weight"]) == {1, 2, 3, None}


def test_the_plain_sdk_reads_nothing_from_after_its_instant(online: Place) -> None:
    materialize(online.use_case, online.settings, as_of=END)
    assert set(answer(online, END - DAY, ["by_shop:shop_orders"])["shop_orders"]) == {None}


def test_the_plain_sdk_writes_through_and_the_newest_event_stays(online: Place) -> None:
    store = open_store(online.use_case, online.settings, at=END)

    def push(hours: int, orders: int) -> None:
        at = END - timedelta(hours=hours)
        row = {"shop": "s0", "shop_returned": 0.5, "shop_orders": orders, "event_time": at, "known_at": at}
        store.write_to_online_store("by_shop", pd.DataFrame([row]))

    push(2, 10)
    push(1, 20)
    push(3, 30)
    found = store.get_online_features(["by_shop:shop_orders", "by_shop:shop_returned"], [{"shop": "s0"}]).to_dict()
    assert (found["shop_orders"], found["shop_returned"]) == ([20], [0.5])


def test_a_view_that_is_deleted_leaves_no_rows(online: Place) -> None:
    materialize(online.use_case, online.settings, as_of=END)
    store = open_store(online.use_case, online.settings)
    view = store.get_feature_view("by_shop")
    store._get_provider().online_store.update(store.config, [view], [], [], [], True)
    assert set(answer(online, END, ["by_shop:shop_orders"])["shop_orders"]) == {None}
    store._get_provider().online_store.teardown(store.config, [store.get_feature_view("by_pair")], [])
    assert set(answer(online, END, ["by_pair:pair_orders"])["pair_orders"]) == {None}
