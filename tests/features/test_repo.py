"""Applying a use case's Feast objects: only when they changed, and the registry forgets what is gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from returns import Place, feature_repo, use_case

from features.catalog import read_catalog
from features.freshness import newest_events
from features.push import push
from features.repo import apply, feature_objects, open_store
from millrace.errors import RequestError, UseCaseError


def test_an_unchanged_repository_is_not_applied_again(place: Place) -> None:
    assert apply(place.use_case, place.settings)
    assert not apply(place.use_case, place.settings)


def test_a_changed_repository_is_applied_and_what_is_gone_is_forgotten(place: Place) -> None:
    def fewer(source: Any) -> Any:
        from feast import FeatureService

        shop, item, _, by_pair, *_ = feature_repo(source)
        return [shop, item, by_pair, FeatureService(name="fewer", features=[by_pair])]

    apply(place.use_case, place.settings)
    assert apply(replace(place.use_case, feature_repo=fewer), place.settings)
    store = open_store(place.use_case, place.settings)
    assert [view.name for view in store.list_feature_views()] == ["by_pair"]
    assert [service.name for service in store.list_feature_services()] == ["fewer"]
    assert store.list_on_demand_feature_views() == []


def test_the_sources_are_the_lakes_tables_with_both_times(place: Place) -> None:
    views = {item.name: item for item in feature_objects(place.use_case, place.settings)}
    source = views["by_shop"].batch_source
    assert source.path == place.lake.uri("features/shops")
    assert (source.timestamp_field, source.created_timestamp_column) == ("event_time", "known_at")


def test_the_registry_runs_an_on_demand_function_from_its_source_text(built: Place) -> None:
    view = open_store(built.use_case, built.settings).get_on_demand_feature_view("order")
    inputs = {"placed": [None], "weight": [2], "shop": ["s0"], "price": [1.5]}
    udf = view.feature_transformation.udf
    assert udf is not use_case.on_demand[0]
    assert udf(inputs) == use_case.on_demand[0](inputs)


def fails(source: Any) -> Any:
    raise KeyError("carrier")


BAD_REPOS = {
    "fails": (fails, "feature_repo of 'returns' fails: KeyError: 'carrier'"),
    "returns something else": (lambda source: ["by_shop"], "returns str, which Feast does not know"),
}


@pytest.mark.parametrize("kind", list(BAD_REPOS))
def test_a_repository_that_is_wrong_is_named(place: Place, kind: str) -> None:
    repo, message = BAD_REPOS[kind]
    with pytest.raises(UseCaseError, match=message):
        apply(replace(place.use_case, feature_repo=repo), place.settings)


def test_what_feast_refuses_is_told_and_not_taken_as_applied(place: Place) -> None:
    def wrong(source: Any) -> Any:
        objects = list(feature_repo(source))
        objects[5].feature_transformation.udf = lambda inputs: {"nothing": [1]}
        return objects

    broken = replace(place.use_case, feature_repo=wrong)
    for _ in range(2):
        with pytest.raises(UseCaseError, match="Feast refuses the feature_repo of 'returns'"):
            apply(broken, place.settings)
    assert apply(place.use_case, place.settings)


def test_a_use_case_without_a_feature_store_has_nothing_to_apply_list_or_push(place: Place) -> None:
    bare = replace(place.use_case, feature_repo=None, request_features=("price",))
    for ask in (feature_objects, read_catalog, newest_events):
        with pytest.raises(UseCaseError, match=r"no feature store.*request_features are price"):
            ask(bare, place.settings)
    with pytest.raises(RequestError, match=r"no online feature view.*none"):
        push(bare, place.settings, "by_shop", [], now=datetime(2024, 1, 1, tzinfo=UTC))
