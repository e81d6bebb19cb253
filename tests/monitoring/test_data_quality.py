import json
from collections.abc import Callable

import polars as pl

from monitoring.data_quality import check, describe

Window = Callable[..., pl.DataFrame]


def test_a_window_like_the_reference_has_no_problems(window: Window) -> None:
    assert check(window(3_000, seed=0), window(900, seed=1, shift=2.0, shifted=3)).problems == ()


def test_a_missing_column_is_a_problem(window: Window) -> None:
    assert check(window(300, seed=0), window(300, seed=1).drop("n2")).problems == ("the column n2 is missing",)


def test_a_retyped_column_is_a_problem(window: Window) -> None:
    retyped = window(300, seed=1).with_columns(pl.col("n2").cast(pl.String))
    assert check(window(300, seed=0), retyped).problems == ("n2 is String, in the reference Float64",)


def test_a_column_that_lost_its_values_is_a_problem(window: Window) -> None:
    half = window(1_000, seed=1).with_columns(
        pl.when(pl.int_range(pl.len()) % 2 == 0).then(float("nan")).otherwise(pl.col("n0")).alias("n0"),
        pl.lit(None).alias("n1"),
    )
    problems = check(window(1_000, seed=0), half).problems
    assert problems == ("n0 is 50% missing, in the reference 0%", "n1 is 100% missing, in the reference 0%")


def test_values_that_the_reference_lacked_already_are_no_problem(window: Window) -> None:
    reference, current = (window(300, seed=seed).with_columns(pl.lit(None).alias("n0")) for seed in (0, 1))
    assert check(reference, current).problems == ()


def test_many_new_categories_are_a_problem(window: Window) -> None:
    renamed = window(300, seed=1).with_columns(pl.col("t0").str.to_uppercase())
    problems = check(window(300, seed=0), renamed).problems
    assert problems == ("100% of the values of t0 are categories that the reference lacks",)


def test_new_categories_are_expected_where_nearly_each_value_is_its_own(window: Window) -> None:
    frames = [
        window(300, seed=seed).with_columns((pl.int_range(pl.len()) + 1_000 * seed).cast(pl.String).alias("t0"))
        for seed in (0, 1)
    ]
    assert check(*frames).problems == ()


def test_scores_that_are_no_probability_are_a_problem(window: Window) -> None:
    wrong = window(300, seed=1).with_columns(
        pl.when(pl.int_range(pl.len()) < 3).then(1.2).otherwise(pl.col("score")).alias("score")
    )
    assert check(window(300, seed=0), wrong).problems == ("3 scores are missing or no probability",)


def test_an_empty_window_has_no_columns_to_speak_of(window: Window) -> None:
    found = check(window(300, seed=0), window(300, seed=1).clear())
    assert (found.rows, found.problems) == (0, ())


def test_many_problems_are_told_in_one_line() -> None:
    assert describe(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"
    assert describe(["a"]) == "a"


def test_the_result_is_json(window: Window) -> None:
    found = check(window(300, seed=0), window(300, seed=1).drop("n2"))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["problems"] == ["the column n2 is missing"]


def test_another_unit_is_a_problem_and_another_season_is_none(window: Window) -> None:
    reference = window(1_000, seed=0)
    thousandfold = window(300, seed=1).with_columns(pl.col("n0") * 1_000)
    problems = check(reference, thousandfold).problems
    assert len(problems) == 1
    assert "of the values of n0 lie 10 times the reference's range beyond it" in problems[0]
    moved = check(reference, window(300, seed=1, shift=12.0, shifted=1))
    assert moved.problems == ()
    assert next(column.outside for column in moved.columns if column.name == "n0") == 1.0


def test_rows_that_stand_still_are_a_problem(window: Window) -> None:
    frozen = pl.concat([window(300, seed=1), *[window(1, seed=2)] * 200])
    assert check(window(300, seed=0), frozen).of_rows == (
        "39% of the rows repeat the features of another, in the reference 0%",
    )


def test_rows_that_were_always_alike_are_no_problem_however_many(window: Window) -> None:
    few = [window(rows, seed=rows, numbers=0, texts=2) for rows in (1_000, 50_000)]
    assert check(*few).of_rows == ()


def test_far_too_few_or_too_many_rows_are_a_problem(window: Window) -> None:
    reference, current = window(300, seed=0), window(300, seed=1)
    assert check(reference, current, earlier_rows=[1_000, 1_100, 990]).of_rows == (
        "the window has 300 rows where 1,000 are usual",
    )
    assert check(reference, current, earlier_rows=[90, 95, 80]).of_rows == (
        "the window has 300 rows where 90 are usual",
    )
    assert check(reference, current, earlier_rows=[1_000, 200, 500]).of_rows == ()
    assert check(reference, current, earlier_rows=[1_000, 1_000]).of_rows == ()  # too few to say what is usual


def test_a_column_of_one_value_is_told_and_is_no_problem(window: Window) -> None:
    stuck = window(300, seed=1).with_columns(pl.lit(4.0).alias("n0"), pl.lit("v1").alias("t0"))
    found = check(window(300, seed=0), stuck)
    assert (found.stuck, found.problems) == (("n0", "t0"), ())
    assert check(stuck, stuck).stuck == ()
