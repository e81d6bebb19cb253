"""What makes a row unfit to be scored, and a column unfit for all of them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from millrace.errors import FeatureError
from serving.batch.checking import Wanted, check_columns, check_sample, judge
from serving.online.bodies import Numbers


def wanted(kind: Any, *, texts: bool = False, filled: bool = False) -> Wanted:
    return Wanted({"x": kind}, {}, ("x",) if filled else (), texts=texts)


def faulty(values: list[Any], kind: Any, dtype: Any = None, **more: bool) -> list[bool]:
    """Of each value whether it is refused."""
    _, reasons = judge(pl.DataFrame({"x": pl.Series(values, dtype=dtype, strict=False)}), wanted(kind, **more))
    return [False] * len(values) if reasons is None else reasons.is_not_null().to_list()


@pytest.mark.parametrize(
    ("kind", "fit", "unfit"),
    [
        ("number", [0.0, -3.4e38, float("nan"), None], [float("inf"), -1e39]),
        ("integer", [3.0, None, float("nan")], [3.5]),
        ("text", ["", "x" * 1_000, "ä" * 1_000, None], ["x" * 1_001, "a\0"]),
        ("key", ["a"], ["\0"]),
    ],
)
def test_a_value_is_refused_as_the_endpoint_refuses_it(kind: Any, fit: list[Any], unfit: list[Any]) -> None:
    assert faulty(fit + unfit, kind) == [False] * len(fit) + [True] * len(unfit)


@pytest.mark.parametrize(
    ("kind", "fit", "unfit"),
    [
        ("number", ["1", " 2.5 ", "-1e3", "NaN", None], ["late", "inf", "1e39", "1,5"]),
        ("integer", ["7", None], ["7.5", "x"]),
        ("flag", ["true", "False", "1", "0"], ["yes"]),
        ("instant", ["2013-04-01", "2013-04-01T06:00:00Z", "2013-04-01 06:00"], ["soon", "2500-01-01"]),
    ],
)
def test_a_text_is_read_as_what_it_should_be(kind: Any, fit: list[Any], unfit: list[Any]) -> None:
    assert faulty(fit + unfit, kind, pl.String, texts=True) == [False] * len(fit) + [True] * len(unfit)


def test_an_array_of_another_length_is_refused() -> None:
    assert faulty([[1.0, 2.0], [1.0], None], Numbers(2), pl.List(pl.Float64)) == [False, True, False]


def test_a_missing_value_is_refused_where_one_is_needed() -> None:
    assert faulty(["a", None], "key", filled=True) == [False, True]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("number", pl.String), ("text", pl.Int64), ("flag", pl.Int64), ("instant", pl.Int64), (Numbers(2), pl.Float64)],
)
def test_a_column_of_another_type_is_named(kind: Any, dtype: Any) -> None:
    with pytest.raises(FeatureError, match="The column x must be"):
        check_columns(pl.Schema({"x": dtype}), wanted(kind), where="The file")


def test_a_sample_of_which_nothing_can_be_read_is_refused_and_one_good_value_saves_it() -> None:
    check_sample(pl.DataFrame({"x": ["late", "1"]}), wanted("number", texts=True), where="the file")
    with pytest.raises(FeatureError, match="not one of its first 2 values"):
        check_sample(pl.DataFrame({"x": ["late", "soon"]}), wanted("number", texts=True), where="the file")
