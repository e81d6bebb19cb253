"""Our offline store under Feast's own SDK: point in time, never from the future, and its odds and ends."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from returns import DAY, START, Place, order_rows

from features.repo import open_store
from millrace.errors import FeatureError

WINDOW = 3 * DAY


@pytest.fixture(scope="module")
def store(built: Place) -> Any:
    return open_store(built.use_case, built.settings)


def entities(*values: tuple[str, str, datetime]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "shop": [shop for shop, _, _ in values],
            "item": [item for _, item, _ in values],
            "price": 1.0,
            "placed": [at for *_, at in values],
            "event_timestamp": [at for *_, at in values],
        }
    )


def expected(shop: str, item: str | None, at: datetime, ttl: timedelta) -> tuple[float | None, int | None]:
    """Share and number of outcomes of the three days up to the last one known by `at`, from the plain rows."""
    known = [
        (row["dispatched"] + 2 * DAY, row["returned"])
        for row in order_rows().iter_rows(named=True)
        if row["shop"] == shop and item in (None, row["item"]) and row["dispatched"] + 2 * DAY <= at
    ]
    if not known or known[-1][0] < at - ttl:
        return None, None
    recent = [returned for moment, returned in known if moment > known[-1][0] - WINDOW]
    return sum(recent) / len(recent), len(recent)


def test_values_are_those_known_at_each_rows_instant(store: Any) -> None:
    asked = [(f"s{n % 4}", f"i{n % 5}", START + n * timedelta(hours=7, minutes=11)) for n in range(30)]
    features = ["by_shop:shop_returned", "by_shop:shop_orders", "by_pair:pair_returned", "by_pair:pair_orders"]
    frame = store.get_historical_features(entities(*asked), features).to_df()
    for (shop, item, at), row in zip(asked, frame.itertuples(), strict=True):
        got = [None if pd.isna(value) else value for value in (row.shop_returned, row.shop_orders)]
        assert got == pytest.approx(list(expected(shop, None, at, DAY)))
        pair = [None if pd.isna(value) else value for value in (row.pair_returned, row.pair_orders)]
        assert pair == pytest.approx(list(expected(shop, item, at, timedelta(hours=12))))


def test_rows_keep_their_order_and_their_columns(store: Any) -> None:
    asked = entities(("s1", "i1", START + 8 * DAY), ("s0", "i0", START + 3 * DAY), ("s2", "i2", START + 5 * DAY))
    frame = store.get_historical_features(asked, ["by_shop:shop_orders"]).to_df()
    assert list(frame["shop"]) == ["s1", "s0", "s2"]
    assert list(frame.columns) == [*asked.columns, "shop_orders"]


def test_full_feature_names_carry_the_view(store: Any) -> None:
    asked = entities(("s1", "i1", START + 8 * DAY))
    frame = store.get_historical_features(asked, ["by_shop:shop_orders"], full_feature_names=True).to_df()
    assert frame["by_shop__shop_orders"].notna().all()


def test_a_feature_service_with_an_on_demand_view_is_answered(store: Any) -> None:
    asked = entities(("s1", "i1", START + 8 * DAY))
    frame = store.get_historical_features(asked, store.get_feature_service("returns")).to_df()
    assert (frame["shop_code"].item(), frame["cost"].item(), frame["load"].item()) == ("s1", 1.0, 5.0)


def test_a_naive_instant_is_utc(store: Any) -> None:
    asked = entities(("s1", "i1", START + 8 * DAY))
    naive = asked.assign(event_timestamp=asked["event_timestamp"].dt.tz_localize(None))
    refs = ["by_shop:shop_returned"]
    one, two = (store.get_historical_features(frame, refs).to_df()["shop_returned"] for frame in (asked, naive))
    assert one.equals(two)


def test_a_view_is_joined_on_other_columns_by_its_join_key_map(store: Any) -> None:
    from feast import FeatureService

    view = store.get_feature_view("by_shop").with_name("seller").with_join_key_map({"shop": "seller"})
    service = FeatureService(name="sellers", features=[view])
    asked = entities(("s1", "i1", START + 8 * DAY)).rename(columns={"shop": "seller"})
    store.apply([service])
    frame = store.get_historical_features(asked, store.get_feature_service("sellers"), full_feature_names=True).to_df()
    store.delete_feature_service("sellers")
    assert frame["seller__shop_orders"].item() == expected("s1", None, START + 8 * DAY, DAY)[1]


def test_an_answer_can_be_kept_as_a_parquet_file(store: Any, tmp_path: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    job = store.get_historical_features(entities(("s1", "i1", START + 8 * DAY)), ["by_shop:shop_orders"])
    storage = SavedDatasetFileStorage(path=str(tmp_path / "kept.parquet"))
    job.persist(storage)
    assert pl.read_parquet(tmp_path / "kept.parquet").height == 1
    with pytest.raises(FeatureError, match="exists"):
        job.persist(storage)


def test_pull_latest_takes_the_newest_row_of_each_entity_in_the_range(store: Any) -> None:
    view = store.get_feature_view("by_shop")
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=view.batch_source,
        join_key_columns=["shop"],
        feature_name_columns=["shop_orders"],
        timestamp_field="event_time",
        created_timestamp_column="known_at",
        start_date=START,
        end_date=START + 5 * DAY,
    )
    frame = job.to_polars().sort("shop")
    assert frame["shop"].to_list() == ["s0", "s1", "s2"]
    newest = [START + 5 * DAY - timedelta(minutes=minutes) for minutes in (0, 40, 20)]
    assert frame["event_time"].to_list() == newest


def test_pull_all_takes_every_row_in_the_range(store: Any) -> None:
    view = store.get_feature_view("by_shop")
    job = store._get_provider().offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=view.batch_source,
        join_key_columns=["shop"],
        feature_name_columns=["shop_orders"],
        timestamp_field="event_time",
        created_timestamp_column="known_at",
        start_date=START + 4 * DAY,
        end_date=START + 5 * DAY,
    )
    assert job.to_polars().height == 73


def test_rows_without_an_instant_are_refused(store: Any) -> None:
    asked = entities(("s1", "i1", START)).drop(columns=["event_timestamp", "placed"])
    with pytest.raises(FeatureError, match="no clear instant"):
        store.get_historical_features(asked, ["by_shop:shop_orders"]).to_df()


def test_rows_without_a_join_key_are_refused(store: Any) -> None:
    asked = entities(("s1", "i1", START)).drop(columns="shop")
    with pytest.raises(FeatureError, match="lack the join key shop of the feature view 'by_shop'"):
        store.get_historical_features(asked, ["by_shop:shop_orders"]).to_df()


def test_a_table_that_was_never_built_is_named(place: Place) -> None:
    from features.repo import apply

    apply(place.use_case, place.settings)
    fresh = open_store(place.use_case, place.settings)
    with pytest.raises(FeatureError, match=r"feature source 'shops' cannot be read.*millrace materialize"):
        fresh.get_historical_features(entities(("s1", "i1", START)), ["by_shop:shop_orders"]).to_df()
