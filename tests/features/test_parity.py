"""Parity: what the online path gives is what a row was trained on, and every way in which it is not is told."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from returns import DAY, START, Place, order_facts

from features.online_store import Entry
from features.parity import replayed, sampled, training_parity
from features.plan import ReadPlan, read_plan
from features.repo import apply, open_store
from features.sqlite_store import SqliteRows
from features.store import online_path
from features.training_set import historical_features, training_set
from millrace.errors import NoDataError
from millrace.settings import Settings
from millrace.usecase import UseCase

END = START + 9 * DAY


@pytest.fixture(scope="module")
def plan(built: Place) -> ReadPlan:
    return read_plan(built.use_case, open_store(built.use_case, built.settings))


@pytest.fixture(scope="module")
def trained_on(built: Place) -> pl.DataFrame:
    """The rows of a training, with their features."""
    return training_set(built.use_case, built.settings, built.lake, since=START, until=END, as_of=END).frame


@pytest.fixture(params=["sqlite", "redis"])
def kind(request: pytest.FixtureRequest, built: Place) -> Settings:
    """The settings of a platform with each kind of online store."""
    if request.param == "sqlite":
        return built.settings
    redis = request.getfixturevalue("needs_redis")
    changed = {"online_store": "redis", "redis_url": redis.redis_url, "redis_prefix": redis.redis_prefix}
    return built.settings.model_copy(update=changed)


def test_training_rows_have_the_same_values_online(built: Place, kind: Settings) -> None:
    found = training_parity(built.use_case, kind, built.lake, rows=200, as_of=END)
    assert (found.rows, found.values, found.mismatches, found.first) == (200, 1_400, 0, ())
    assert found.holds
    assert str(found) == "Asked again online, 200 training rows give the same 1,400 feature values."


def test_the_rows_that_are_compared_have_values(trained_on: pl.DataFrame, plan: ReadPlan) -> None:
    sample = sampled(trained_on, 200)
    filled = [sample[name].count() for name in plan.features]
    assert min(filled) > 100


def test_a_replay_touches_no_store_but_its_own(built: Place, kind: Settings) -> None:
    training_parity(built.use_case, kind, built.lake, rows=5, as_of=END)
    assert not online_path(built.use_case, built.settings).exists()
    if kind.online_store == "redis":
        import redis

        with redis.Redis.from_url(kind.redis_url) as client:
            assert list(client.scan_iter(match=f"{kind.redis_prefix}*")) == []


def test_a_sample_is_the_same_for_the_same_seed_and_keeps_the_order(trained_on: pl.DataFrame) -> None:
    first, again, other = (sampled(trained_on, 50, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    assert first["event_time"].is_sorted()
    assert sampled(trained_on, 10_000).equals(trained_on)


def test_a_use_case_without_labelled_rows_says_so(built: Place) -> None:
    with pytest.raises(NoDataError, match="no labelled row"):
        training_parity(built.use_case, built.settings, built.lake, rows=5, as_of=START)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_late_again_or_expire_are_the_same_online(place: Place, seed: int) -> None:
    """Feature tables as no build would make them in so few rows: late, corrected, out of order, with long gaps."""
    chance = random.Random(seed)
    place.ingest(END)
    apply(place.use_case, place.settings)

    def rows(count: int, **columns: Any) -> pl.DataFrame:
        events = [START + chance.randint(0, 9 * 12) * timedelta(hours=2) for _ in range(count)]
        known = [event + chance.choice([0, 0, 1, 30, -5]) * timedelta(hours=1) for event in events]
        made = {name: [make() for _ in events] for name, make in columns.items()}
        return pl.DataFrame(made | {"event_time": events, "known_at": known})

    def shop() -> str:
        return chance.choice(["s0", "s1", "s2", "s3"])

    def item() -> str:
        return f"i{chance.randint(0, 4)}"

    def share() -> float | None:
        return chance.choice([None, chance.random()])

    def number() -> int:
        return chance.randint(0, 99)

    tables = {
        "shops": rows(300, shop=shop, shop_returned=share, shop_orders=number),
        "pairs": rows(400, shop=shop, item=item, pair_returned=share, pair_orders=number),
        "item_facts": rows(60, item=item, weight=number),
    }
    for name, frame in tables.items():
        place.lake.replace(f"features/{name}", frame, where=None, marks={})
    found = training_parity(place.use_case, place.settings, place.lake, rows=300, as_of=END, seed=seed)
    assert (found.rows, found.first) == (300, ())


def test_a_function_that_depends_on_how_many_rows_it_gets_is_told(
    built: Place, plan: ReadPlan, trained_on: pl.DataFrame
) -> None:
    def order_facts(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        given = [price for price in inputs["price"] if price is not None]
        mean = sum(given) / max(len(given), 1)
        return plain(inputs) | {"cost": [mean for _ in inputs["price"]]}

    plain, use_case = order_facts_of(built), replace(built.use_case, on_demand=(order_facts,))
    sample = historical_features(use_case, built.settings, sampled(trained_on, 40))
    found = replayed(use_case, built.settings, plan, sample)
    assert not found.holds
    assert found.mismatches == 40
    assert len(found.first) == 10
    assert {(one.view, one.feature) for one in found.first} == {("order", "cost")}
    assert found.first[0].offline == pytest.approx(sample["cost"][0])
    assert "40 of the 280 feature values of 40 training rows differ; cost of order for item i" in str(found)


def order_facts_of(place: Place) -> Any:
    assert place.use_case.on_demand == (order_facts,)
    return order_facts


def test_a_value_from_the_future_is_told(built: Place, plan: ReadPlan, trained_on: pl.DataFrame) -> None:
    later = historical_features(
        built.use_case, built.settings, trained_on.with_columns(pl.col("event_time") + timedelta(hours=3))
    )
    leaking = sampled(later.with_columns(trained_on["event_time"]), 50)
    found = replayed(built.use_case, built.settings, plan, leaking)
    assert {"shop_returned", "shop_orders"} & {one.feature for one in found.first}


def test_a_column_that_serving_would_refuse_is_told(built: Place, plan: ReadPlan, trained_on: pl.DataFrame) -> None:
    wrong = trained_on.tail(3).with_columns(pl.lit("2.5").alias("price"))
    found = replayed(built.use_case, built.settings, plan, wrong)
    assert found.mismatches == 3
    told = found.first[0]
    assert (told.view, told.feature, told.offline) == ("request", "price", "2.5")
    assert told.online == "price of row 0 must be a number."


def test_a_reader_that_forgets_the_ttl_is_told(built: Place, plan: ReadPlan, trained_on: pl.DataFrame) -> None:
    late = trained_on.tail(20).with_columns(pl.col("event_time") + 4 * DAY)
    expired = historical_features(built.use_case, built.settings, late)
    assert replayed(built.use_case, built.settings, plan, expired).holds
    endless = replace(plan, views=tuple(replace(view, ttl=None) for view in plan.views))
    found = replayed(built.use_case, built.settings, endless, expired)
    assert {one.view for one in found.first} == {"by_pair", "by_shop"}
    assert all(one.offline is None and one.online is not None for one in found.first)


def test_a_policy_for_stale_values_is_read_as_in_training(
    built: Place, plan: ReadPlan, trained_on: pl.DataFrame
) -> None:
    late = trained_on.tail(20).with_columns(pl.col("event_time") + 4 * DAY)
    expired = historical_features(built.use_case, built.settings, late)
    for policy in ("serve", "refuse"):
        lenient = replace(plan, views=tuple(replace(view, stale=policy) for view in plan.views))  # type: ignore[arg-type]  # a text
        assert replayed(built.use_case, built.settings, lenient, expired).holds


class OldestWins(SqliteRows):
    """A store with an error: what stands in it is never replaced."""

    def write(self, entries: Iterable[Entry]) -> int:
        return super().write([entry for entry in entries if self.read([entry.key]) == [None]])


def test_a_store_that_keeps_the_wrong_row_is_told(
    built: Place, plan: ReadPlan, trained_on: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_rows(use_case: UseCase, settings: Settings) -> SqliteRows:
        return OldestWins(Path(settings.home) / "rows.db")

    monkeypatch.setattr("features.parity.open_rows", open_rows)
    found = replayed(built.use_case, built.settings, plan, sampled(trained_on, 50))
    assert {"by_shop", "by_pair"} & {one.view for one in found.first}


def test_a_mismatch_says_which_value_of_which_row_it_is(built: Place, plan: ReadPlan, trained_on: pl.DataFrame) -> None:
    row = trained_on.tail(1)
    found = replayed(built.use_case, built.settings, plan, row.with_columns(shop_orders=pl.col("shop_orders") + 1))
    (told,) = found.first
    at: datetime = row["event_time"][0]
    assert (told.view, told.feature, told.keys, told.at) == ("by_shop", "shop_orders", {"shop": row["shop"][0]}, at)
    assert told.offline == told.online + 1
    assert str(told).startswith(f"shop_orders of by_shop for shop {row['shop'][0]} at 2024-01-")
