"""A frame and the same values as plain rows are encoded to the same matrix, whatever they hold."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.contract import Contract, decode_contract, encode_contract
from millrace.errors import BundleError, FeatureError, RequestError, TrainingError
from millrace.inputs import MAX_CATEGORIES, InputSpec, describe_inputs

TRAINED = pl.DataFrame(
    {
        "delay": [1.5, None, -3.0, nan, inf],
        "count": [1, 2, None, 4, 40],
        "carrier": ["UA", "AA", None, "UA", "9E"],
        "rain": [True, None, False, False, True],
        "never": [None, None, None, None, None],
    },
    schema_overrides={"never": pl.Null},
)


def contract(frame: pl.DataFrame = TRAINED) -> Contract:
    return Contract(
        use_case="late",
        question="Late?",
        candidate="tree",
        engine="onnx",
        inputs=describe_inputs(frame, frame.columns),
        trained_as_of=datetime(2013, 4, 1, tzinfo=UTC),
        read_plan={"views": []},
        lineage={"seed": 0},
    )


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype == np.float32 and first.tobytes() == second.tobytes()


def test_text_and_booleans_are_categorical_and_numbers_numeric_with_their_finite_range() -> None:
    assert contract().inputs == (
        InputSpec("delay", "numeric", low=-3.0, high=1.5, default=-0.75),
        InputSpec("count", "numeric", low=1.0, high=40.0, default=3.0),
        InputSpec("carrier", "categorical", ("9E", "AA", "UA"), default="UA"),
        InputSpec("rain", "categorical", ("false", "true"), default="false"),
        InputSpec("never", "numeric", always_missing=True),
    )


def test_polars_categoricals_and_enums_are_categorical() -> None:
    frame = pl.DataFrame({"a": ["x", "y"], "b": ["x", "y"]}, schema={"a": pl.Categorical(), "b": pl.Enum(["y", "x"])})
    assert [spec.categories for spec in describe_inputs(frame, ["a", "b"])] == [("x", "y"), ("x", "y")]
    described = contract(frame)
    assert described.encode_frame(frame).tolist() == [[0, 0], [1, 1]]


def test_a_text_with_too_many_values_keeps_the_most_frequent() -> None:
    values = [f"v{i:05}" for i in range(MAX_CATEGORIES + 10)]
    frame = pl.DataFrame({"tail": values + values[-3:]})
    kept = describe_inputs(frame, ["tail"])[0].categories
    assert len(kept) == MAX_CATEGORIES
    assert set(values[-3:]) <= set(kept)
    assert kept == tuple(sorted(kept))


@pytest.mark.parametrize(
    "values", [[datetime(2013, 1, 1, tzinfo=UTC)], [timedelta(1)], [["a", "b"]], [[1.0]], [[1.0, 2.0], [1.0]], [b"x"]]
)
def test_a_feature_that_no_model_can_take_is_refused_by_name(values: list[Any]) -> None:
    with pytest.raises(TrainingError, match="'odd'"):
        describe_inputs(pl.DataFrame({"odd": values}), ["odd"])


def test_a_frame_is_encoded_by_name_with_missing_as_nan_and_unseen_as_the_last_code() -> None:
    frame = TRAINED.select(reversed(TRAINED.columns)).with_columns(carrier=pl.Series(["9E", "ZZ", None, "UA", ""]))
    expected = [
        [1.5, 1, 0, 1, 0],
        [nan, 2, 3, 2, 0],
        [-3, nan, 3, 0, 0],
        [nan, 4, 2, 0, 0],
        [nan, 40, 3, 1, 0],
    ]
    np.testing.assert_array_equal(contract().encode_frame(frame), np.array(expected, dtype=np.float32))


def test_rows_and_frame_are_encoded_alike() -> None:
    assert same(contract().encode_frame(TRAINED), contract().encode_rows(TRAINED.rows()))


floats = st.floats() | st.sampled_from([1e39, -1e39, 3.4028235e38, 1e-46, -0.0, 16777217.0, inf, -inf, nan])
numbers = st.one_of(st.none(), floats)
integers = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
texts = st.one_of(st.none(), st.sampled_from(["UA", "AA", "9E", "ua", "", "true", "ZZ"]), st.text(max_size=3))
flags = st.one_of(st.none(), st.booleans())


@given(st.lists(st.tuples(numbers, integers, texts, flags, st.none()), max_size=8))
def test_rows_and_frame_are_encoded_alike_whatever_they_hold(rows: list[tuple[Any, ...]]) -> None:
    schema = {"delay": pl.Float64, "count": pl.Int64, "carrier": pl.String, "rain": pl.Boolean, "never": pl.Null}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    assert same(contract().encode_frame(frame), contract().encode_rows(rows))


@given(st.lists(st.one_of(st.none(), floats, st.sampled_from([0.0, 1.0])), min_size=1, max_size=5))
def test_numbers_in_a_boolean_or_text_input_are_encoded_alike(values: list[float | None]) -> None:
    described = contract(TRAINED.select("carrier", "rain"))
    frame = pl.DataFrame({"carrier": values, "rain": values}, schema={"carrier": pl.Float64, "rain": pl.Float64})
    found = described.encode_rows([[value, value] for value in values])
    assert same(described.encode_frame(frame), found)
    assert found[:, 0].tolist() == [3.0] * len(values)


def test_true_and_its_text_and_one_are_the_same_boolean() -> None:
    described = contract(TRAINED.select("rain"))
    assert described.encode_rows([[True], ["true"], [1], [False], ["false"], [0], [2], ["True"]]).ravel().tolist() == [
        1, 1, 1, 0, 0, 0, 2, 2,
    ]  # fmt: skip
    frame = pl.DataFrame({"rain": ["true", "false", "True"]})
    assert described.encode_frame(frame).ravel().tolist() == [1, 0, 2]


def test_booleans_decimals_and_integers_are_numbers() -> None:
    described = contract(TRAINED.select("delay"))
    assert described.encode_rows([[True], [Decimal("2.5")], [3]]).ravel().tolist() == [1, 2.5, 3]
    for values in ([True, False], [Decimal("2.5"), Decimal("1.5")], [3, 4]):
        frame = pl.DataFrame({"delay": values})
        assert same(described.encode_frame(frame), described.encode_rows([[value] for value in values]))


def test_an_input_that_training_never_saw_is_zero_whatever_it_holds() -> None:
    described = contract(TRAINED.select("never"))
    values = [1.5, None, nan, inf]
    assert described.encode_rows([[value] for value in values]).ravel().tolist() == [0, 0, 0, 0]
    assert described.encode_frame(pl.DataFrame({"never": values})).ravel().tolist() == [0, 0, 0, 0]


def test_no_rows_are_an_empty_matrix() -> None:
    assert contract().encode_rows([]).shape == (0, 5)
    assert contract().encode_frame(TRAINED.head(0)).shape == (0, 5)


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (0, "1.5", "a number"),
        (0, [1.0], "a number"),
        (1, 10**400, "fits a double"),
        (2, ["UA"], "a text"),
        (3, {}, "a text"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_name_and_not_its_value(
    position: int, value: Any, says: str
) -> None:
    row: list[Any] = [1.0, 2, "UA", True, None]
    row[position] = value
    with pytest.raises(RequestError, match=says) as caught:
        contract().encode_rows([[1.0, 2, "UA", True, None], row])
    assert (caught.value.status, caught.value.field) == (422, contract().names[position])


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(RequestError, match="4 values; the model takes 5"):
        contract().encode_rows([[1.0, 2, "UA", True]])


def test_a_frame_without_an_input_is_refused_by_name() -> None:
    with pytest.raises(FeatureError, match="carrier"):
        contract().encode_frame(TRAINED.drop("carrier"))


@pytest.mark.parametrize(
    "column",
    [pl.Series("delay", ["1", "2", "3", "4", "5"]), pl.Series("carrier", [[1]] * 5), pl.Series("rain", [b""] * 5)],
)
def test_a_column_of_the_wrong_type_is_refused_by_name(column: pl.Series) -> None:
    with pytest.raises(FeatureError, match=column.name):
        contract().encode_frame(TRAINED.with_columns(column))


def test_outside_are_numbers_beyond_the_range_and_categories_never_seen() -> None:
    rows: list[list[Any]] = [[1.5, 40, "UA", True, None], [2.0, 0, "ZZ", None, 1.0], [None, None, None, False, 0.0]]
    assert contract().outside(contract().encode_rows(rows)).tolist() == [
        [False, False, False, False, False],
        [True, True, True, True, False],
        [False, False, True, False, False],
    ]


def test_a_builder_receives_the_inputs_in_order() -> None:
    assert [(one.name, one.kind, one.categories) for one in contract().model_inputs][2] == (
        "carrier",
        "categorical",
        ("9E", "AA", "UA"),
    )


def test_a_contract_survives_json() -> None:
    assert decode_contract(encode_contract(contract())) == contract()


def test_what_is_answered_is_written_down() -> None:
    told = json.loads(encode_contract(contract()))["outputs"]
    assert told == [{"name": "score", "kind": "number", "low": 0.0, "high": 1.0, "categories": []}]
    of_classes = json.loads(encode_contract(replace(contract(), classes=("a", "b"))))["outputs"]
    assert [(one["name"], one["kind"], one["low"], one["high"], one["categories"]) for one in of_classes] == [
        ("label", "text", None, None, ["a", "b"]),
        ("score", "number", 0.0, 1.0, []),
        ("scores", "numbers", 0.0, 1.0, ["a", "b"]),
    ]


def test_a_contract_of_before_outputs_were_written_down_has_them_too() -> None:
    stored = json.loads(encode_contract(contract()))
    del stored["outputs"]
    assert decode_contract(json.dumps(stored).encode()) == contract()


@pytest.mark.parametrize("stored", [b"", b"{}", b"[1]", b'{"use_case": "\xff"}', b'{"use_case": 3}', b"\x80\x04"])
def test_what_is_no_contract_is_refused(stored: bytes) -> None:
    with pytest.raises(BundleError, match="not a contract"):
        decode_contract(stored)


IMAGES = pl.DataFrame({"n": [1.0, 2.0, None], "image": [[0.0, 1.0], [2.0, None], None], "kind": ["a", "b", "a"]})


def test_an_array_becomes_as_many_columns_of_the_matrix_in_its_place() -> None:
    described = contract(IMAGES)
    assert described.inputs[1] == InputSpec("image", "numeric", low=0.0, high=2.0, size=2, default=1.0)
    assert described.width == 4
    expected = [[1.0, 0.0, 1.0, 0.0], [2.0, 2.0, np.nan, 1.0], [np.nan, np.nan, np.nan, 0.0]]
    np.testing.assert_array_equal(described.encode_frame(IMAGES), np.float32(expected))


def test_arrays_of_plain_rows_are_encoded_as_those_of_a_frame() -> None:
    described = contract(IMAGES)
    assert same(described.encode_rows(IMAGES.rows()), described.encode_frame(IMAGES))
    fixed = IMAGES.with_columns(pl.Series("image", [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], pl.Array(pl.Float32, 2)))
    assert same(described.encode_rows(fixed.rows()), described.encode_frame(fixed))


def test_an_array_that_was_always_missing_is_zeros() -> None:
    inputs = (InputSpec("image", "numeric", size=2, always_missing=True),)
    described = Contract("c", "?", "tree", "onnx", inputs, datetime(2013, 4, 1, tzinfo=UTC))
    assert described.encode_rows([[[5.0, 6.0]], [None]]).tolist() == [[0, 0], [0, 0]]
    assert described.encode_frame(pl.DataFrame({"image": [[5.0, 6.0], None]})).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("image", [[1.0], [1.0, 2.0, 3.0], 4.0, "ab", ["a", "b"], {"a": 1, "b": 2}])
def test_a_value_that_is_not_an_array_of_the_inputs_length_is_refused_by_name(image: Any) -> None:
    with pytest.raises(RequestError, match="image must be an array of 2 numbers") as refused:
        contract(IMAGES).encode_rows([[1.0, image, "a"]])
    assert refused.value.field == "image"


@pytest.mark.parametrize("values", [[[1.0]], [[1.0, 2.0, 3.0]], [["a", "b"]], [4.0]])
def test_a_frame_whose_arrays_do_not_fit_is_refused_by_name(values: list[Any]) -> None:
    with pytest.raises(FeatureError, match="'image' must hold arrays of 2 numbers"):
        contract(IMAGES).encode_frame(pl.DataFrame({"n": [1.0], "image": values, "kind": ["a"]}))


def test_outside_tells_for_every_column_of_an_array() -> None:
    matrix = np.float32([[1.0, 0.0, 9.0, 0.0]])
    assert contract(IMAGES).outside(matrix).tolist() == [[False, False, True, False]]
