"""Training sets: each row at its own instant, labels only once they are known."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from returns import DAY, LEAD, ORDERS, START, Place, order_rows

from features.training_set import historical_features, labels, population_rows, training_set
from millrace import Label
from millrace.errors import FeatureError, NoDataError

END = START + 9 * DAY


def test_the_instant_of_a_population_row_is_its_event_less_the_lead(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=START + DAY, as_of=END)
    plain = order_rows().filter(pl.col("dispatched") - LEAD >= START, pl.col("dispatched") - LEAD < START + DAY)
    assert rows["order_id"].to_list() == plain["order_id"].to_list()
    assert rows["event_time"].to_list() == (plain["dispatched"] - LEAD).to_list()


def test_population_rows_carry_keys_and_inputs_but_not_when_they_were_known(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=END, as_of=END)
    assert rows.columns == ["order_id", "shop", "item", "price", "placed", "event_time"]


def test_population_rows_not_known_at_as_of_are_left_out(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=END, as_of=START)
    assert rows["event_time"].max() == START + DAY - LEAD


def test_labels_exist_from_their_known_time_on(built: Place) -> None:
    known = labels(built.use_case, built.lake, as_of=START + 3 * DAY)
    assert known.height == 73
    assert known["label_known_at"].max() == START + 3 * DAY
    assert known.schema["label"] == pl.Int8


def test_a_label_that_is_not_zero_or_one_is_refused(built: Place) -> None:
    use_case = replace(built.use_case, label=Label(built.use_case.population.source, "price", DAY))
    with pytest.raises(FeatureError, match="label 'price' of 'returns' has other values than 0 and 1"):
        labels(use_case, built.lake, as_of=END)


def test_rows_without_an_outcome_have_no_label(built: Place) -> None:
    made = training_set(built.use_case, built.settings, built.lake, since=START, until=END, as_of=END)
    population = population_rows(built.use_case, built.lake, since=START, until=END, as_of=END)
    assert made.unlabelled == population.height - made.frame.height > 0
    assert made.frame["label_known_at"].max() <= END  # type: ignore[operator]  # a datetime column's extreme


def test_a_training_set_has_features_labels_and_the_versions_it_was_made_from(built: Place) -> None:
    made = training_set(built.use_case, built.settings, built.lake, since=START, until=END, as_of=END)
    assert made.features == ("pair_returned", "hour", "shop_code", "cost", "load", "shop_returned", "shop_orders")
    assert made.frame.columns[-9:] == ["label", "label_known_at", *made.features]
    assert made.versions["raw/outcomes"] == 0
    assert set(made.versions) == set(built.lake.tables())
    assert made.frame["event_time"].is_sorted()
    joined = made.frame.join(order_rows(), on="order_id")
    assert joined["label"].cast(pl.Boolean).to_list() == joined["returned"].to_list()


def test_features_of_a_row_do_not_change_with_what_becomes_known_later(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=START + 5 * DAY, as_of=END)
    now = historical_features(built.use_case, built.settings, rows)
    early = rows.head(100)
    assert historical_features(built.use_case, built.settings, early).equals(now.head(100))


def test_no_feature_was_made_from_an_outcome_known_after_its_row(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=END, as_of=END)
    found = historical_features(built.use_case, built.settings, rows)
    first_known = START + 2 * DAY
    assert (
        found.filter(pl.col("event_time") < first_known)["shop_orders"].null_count()
        == found.filter(pl.col("event_time") < first_known).height
    )
    assert found.filter(pl.col("event_time") >= first_known + DAY)["shop_orders"].null_count() == 0


def test_a_column_with_a_features_name_is_replaced(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=END, as_of=END)
    plain = historical_features(built.use_case, built.settings, rows)
    assert historical_features(built.use_case, built.settings, plain).equals(plain)


def test_a_missing_input_is_named(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=START, until=END, as_of=END).drop("placed", "shop")
    with pytest.raises(FeatureError, match="lack the column shop, placed"):
        historical_features(built.use_case, built.settings, rows)


def test_no_rows_have_no_features(built: Place) -> None:
    rows = population_rows(built.use_case, built.lake, since=END, until=END, as_of=END)
    assert historical_features(built.use_case, built.settings, rows).height == 0


def test_a_training_set_without_a_label_is_refused(built: Place) -> None:
    with pytest.raises(NoDataError, match=r"no labelled row of 'returns'.*none of them has a label"):
        training_set(built.use_case, built.settings, built.lake, since=START, until=END, as_of=START)


def test_a_population_that_was_never_ingested_is_named(place: Place) -> None:
    with pytest.raises(NoDataError, match="source 'orders' of 'returns' has been ingested"):
        population_rows(place.use_case, place.lake, since=START, until=END, as_of=END)


def test_a_function_that_gives_another_type_than_declared_is_named(built: Place) -> None:
    def order_facts(inputs: dict[str, list[object]]) -> dict[str, list[object]]:
        count = len(inputs["price"])
        return {"hour": ["late"] * count, "shop_code": inputs["shop"], "cost": inputs["price"], "load": [None] * count}

    use_case = replace(built.use_case, on_demand=(order_facts,))
    rows = population_rows(built.use_case, built.lake, since=START, until=END, as_of=END)
    with pytest.raises(FeatureError, match="order_facts gave values for hour that are not Float64"):
        historical_features(use_case, built.settings, rows)


def test_the_synthetic_orders_are_as_many_as_the_tests_think() -> None:
    assert order_rows().height == ORDERS
