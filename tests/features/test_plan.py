"""The read plan says what Feast's objects say, survives JSON, and refuses what it cannot follow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from returns import Place, feature_repo

from features.plan import FeaturePlan, InputPlan, ReadPlan, read_plan
from features.repo import apply, open_store
from millrace.errors import FeatureError, UseCaseError


@pytest.fixture(scope="module")
def plan(built: Place) -> ReadPlan:
    return read_plan(built.use_case, open_store(built.use_case, built.settings))


def test_features_are_in_the_order_of_the_feature_service(plan: ReadPlan) -> None:
    assert plan.features == ("pair_returned", "hour", "shop_code", "cost", "load", "shop_returned", "shop_orders")


def test_a_view_has_its_keys_ttl_and_the_features_that_are_asked_for(plan: ReadPlan) -> None:
    by_pair = plan.views[0]
    assert (by_pair.name, by_pair.join_keys, by_pair.key_types) == ("by_pair", ("item", "shop"), ("String", "String"))
    assert (by_pair.ttl, by_pair.features) == (43200.0, (FeaturePlan("pair_returned", "Float64", 0),))


def test_a_view_that_only_an_on_demand_function_reads_is_read(plan: ReadPlan) -> None:
    facts = plan.views[-1]
    assert (facts.name, facts.ttl, facts.features) == ("facts", None, (FeaturePlan("weight", "Int64", 0),))
    assert "weight" not in plan.features


def test_an_on_demand_view_names_its_function_inputs_and_outputs(plan: ReadPlan) -> None:
    (order,) = plan.on_demand
    assert (order.name, order.function, order.reads) == ("order", "order_facts", ("weight",))
    assert InputPlan("placed", "UnixTimestamp") in order.inputs
    assert [feature.name for feature in order.features] == ["hour", "shop_code", "cost", "load"]


def test_rows_need_the_join_keys_and_the_inputs(plan: ReadPlan) -> None:
    assert plan.row_types == {"item": "String", "shop": "String", "price": "Float64", "placed": "UnixTimestamp"}
    assert plan.request_inputs == {"price": "Float64", "placed": "UnixTimestamp"}


def test_every_feature_has_a_type(plan: ReadPlan) -> None:
    assert plan.dtypes["shop_orders"] == "Int64"
    assert list(plan.dtypes) == list(plan.features)


def test_dependents_reach_through_views_to_on_demand_features(plan: ReadPlan) -> None:
    assert plan.dependents("item") == {"pair_returned", "hour", "shop_code", "cost", "load"}
    assert plan.dependents("price") == {"hour", "shop_code", "cost", "load"}


def test_a_view_has_the_policies_of_its_tags(place: Place) -> None:
    from feast import FeatureService

    def change(views: Any) -> Any:
        views["by_shop"].tags |= {"stale": "serve", "down": "refuse"}
        return [FeatureService(name="both", features=[views["by_shop"], views["by_pair"]])]

    plan = read_plan(place.use_case, with_service(place, change))
    told = [(view.name, view.stale, view.down) for view in plan.views]
    assert told == [("by_shop", "serve", "refuse"), ("by_pair", "flag", "default")]


def test_a_plan_from_before_there_were_policies_has_the_defaults(plan: ReadPlan) -> None:
    old = plan.to_dict()
    for view in old["views"]:
        del view["stale"], view["down"]
    assert ReadPlan.from_dict(old) == plan


def test_a_plan_survives_json(plan: ReadPlan) -> None:
    assert ReadPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("broken", [{}, {"views": 1}, []])
def test_what_is_no_plan_is_refused(broken: Any) -> None:
    with pytest.raises(FeatureError, match="read plan is not one"):
        ReadPlan.from_dict(broken)


def test_an_on_demand_function_that_the_use_case_does_not_name_is_refused(built: Place) -> None:
    store = open_store(built.use_case, built.settings)
    with pytest.raises(UseCaseError, match=r"calls order_facts.*on_demand=\(order_facts,\)"):
        read_plan(replace(built.use_case, on_demand=()), store)


def with_service(place: Place, change: Any) -> Any:
    def repo(source: Any) -> Any:
        *objects, _ = feature_repo(source)
        return [*objects, *change({item.name: item for item in objects})]

    use_case = replace(place.use_case, feature_repo=repo)
    apply(use_case, place.settings)
    return open_store(use_case, place.settings)


def test_a_repository_without_a_feature_service_is_refused(place: Place) -> None:
    with pytest.raises(UseCaseError, match="must have one FeatureService"):
        read_plan(place.use_case, with_service(place, lambda views: []))


def test_one_view_joined_twice_is_read_under_both_names(place: Place) -> None:
    from feast import FeatureService

    def change(views: Any) -> Any:
        seller = views["by_shop"][["shop_orders"]].with_name("seller").with_join_key_map({"shop": "seller"})
        return [FeatureService(name="both", features=[views["by_shop"][["shop_returned"]], seller])]

    plan = read_plan(place.use_case, with_service(place, change))
    assert [(view.name, view.join_keys) for view in plan.views] == [("by_shop", ("shop",)), ("seller", ("seller",))]
    assert plan.views[0].layout == plan.views[1].layout


def test_two_features_of_one_name_are_refused(place: Place) -> None:
    from feast import FeatureService

    def change(views: Any) -> Any:
        seller = views["by_shop"].with_name("seller").with_join_key_map({"shop": "seller"})
        return [FeatureService(name="both", features=[views["by_shop"], seller])]

    with pytest.raises(UseCaseError, match="more than one feature named shop_orders, shop_returned"):
        read_plan(place.use_case, with_service(place, change))
