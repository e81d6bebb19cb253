import json
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from millrace.usecase import Monitor
from monitoring.drift import adjusted_p_values, drift, kind_of
from monitoring.rows import sample

Window = Callable[..., pl.DataFrame]


def test_an_unchanged_window_alarms_in_at_most_one_window_of_twenty(window: Window) -> None:
    reference = window(2_000, seed=0, numbers=8, texts=3)
    alarms = 0
    for seed in range(1, 41):
        found = drift(reference, window(500 if seed % 2 else 2_000, seed=seed, numbers=8, texts=3), Monitor())
        alarms += bool(found.drifted or (found.score and found.score.drifted))
    assert alarms <= 2


@pytest.mark.parametrize("rows", [500, 6_500])
def test_ten_of_fifty_columns_shifted_by_a_standard_deviation_are_found(window: Window, rows: int) -> None:
    found = drift(window(5_000, seed=0, numbers=50), window(rows, seed=1, numbers=50, shift=1.0, shifted=10), Monitor())
    assert set(found.drifted) == {f"n{i}" for i in range(10)}


def test_a_shift_too_small_to_matter_is_no_drift_however_many_rows(window: Window) -> None:
    reference = window(100_000, seed=0, numbers=10)
    current = window(100_000, seed=1, numbers=10, shift=0.02, shifted=10)
    assert drift(reference, current, Monitor()).drifted == ()
    assert drift(reference, current, Monitor(sample=100_000)).drifted == ()


def test_a_shifted_score_is_found_and_told_apart_from_the_columns(window: Window) -> None:
    found = drift(window(5_000, seed=0), window(5_000, seed=1, score=0.5), Monitor())
    assert found.drifted == ()
    assert found.score is not None
    assert found.score.drifted


def test_categories_whose_shares_change_are_found(window: Window) -> None:
    changed = window(5_000, seed=1).with_columns(pl.lit("v3").alias("t0"))
    found = drift(window(5_000, seed=0), changed, Monitor())
    assert found.drifted == ("t0",)


def test_the_same_frames_and_seed_give_the_same_answer(window: Window) -> None:
    frames = window(8_000, seed=0), window(9_000, seed=1, shift=0.1, shifted=2)
    assert drift(*frames, Monitor(), seed=3) == drift(*frames, Monitor(), seed=3)


def test_the_sample_is_bounded_and_follows_the_seed(window: Window) -> None:
    frame = window(2_000, seed=0)
    assert sample(frame, 500, 1).height == 500
    assert sample(frame, 500, 1).equals(sample(frame, 500, 1))
    assert not sample(frame, 500, 1).equals(sample(frame, 500, 2))
    assert sample(frame, 5_000, 1).equals(frame)


def test_keys_times_and_labels_are_not_compared(window: Window, logged: Callable[..., pl.DataFrame]) -> None:
    reference = window(600, seed=0).with_columns(pl.lit(1).alias("label"))
    found = drift(reference, logged(window(600, seed=1)), Monitor())
    assert [column.name for column in found.columns] == [*window(1, seed=0).columns]
    assert found.note == ""


def test_a_window_below_the_minimum_is_not_judged_and_says_so(window: Window) -> None:
    found = drift(window(5_000, seed=0), window(120, seed=1, shift=3.0, shifted=6), Monitor())
    assert found.drifted == ()
    assert found.note == "only 120 rows: 500 are needed to speak of drift"


def test_an_empty_window_is_not_judged_and_says_so(window: Window) -> None:
    found = drift(window(5_000, seed=0), window(5_000, seed=1).clear(), Monitor())
    assert found.drifted == ()
    assert found.rows == 0
    assert "the window is empty" in found.note
    assert found.columns[0].note == "no values in the window"


def test_a_reference_with_another_schema_is_said(window: Window) -> None:
    found = drift(window(600, seed=0), pl.DataFrame({"other": np.arange(600)}), Monitor())
    assert "no column of the reference is in the window" in found.note
    assert "not in the reference and so not compared: other" in found.note
    assert {column.note for column in found.columns} == {"missing from the window"}


def test_a_retyped_column_is_said(window: Window) -> None:
    retyped = window(600, seed=1).with_columns(pl.col("n0").cast(pl.String))
    found = {column.name: column for column in drift(window(600, seed=0), retyped, Monitor()).columns}
    assert found["n0"].note == "not comparable: Float64 in the reference, String in the window"
    assert found["n1"].effect is not None


def test_an_all_null_column_is_said_and_the_others_are_still_compared(window: Window) -> None:
    emptied = window(600, seed=1).with_columns(pl.lit(None).alias("n0"), pl.lit(float("nan")).alias("n1"))
    found = {column.name: column for column in drift(window(600, seed=0), emptied, Monitor()).columns}
    assert found["n0"].note == found["n1"].note == "no values in the window"
    assert found["n2"].p_value is not None


def test_a_constant_column_has_not_drifted_and_says_so(window: Window) -> None:
    frames = [window(600, seed=seed).with_columns(pl.lit(4.0).alias("n0"), pl.lit("x").alias("t0")) for seed in (0, 1)]
    found = {column.name: column for column in drift(*frames, Monitor()).columns}
    assert found["n0"].note == found["t0"].note == "constant"
    assert found["n0"].effect == 0.0
    assert not found["n0"].drifted


def test_a_column_that_was_constant_and_moves_has_drifted(window: Window) -> None:
    found = drift(window(600, seed=0).with_columns(pl.lit(0.0).alias("n0")), window(600, seed=1), Monitor())
    assert found.drifted == ("n0",)


def test_missing_and_infinite_values_are_left_out(window: Window) -> None:
    holes = window(2_000, seed=1).with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(None).otherwise(pl.col("n0")).alias("n0"),
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(float("inf")).otherwise(pl.col("n1")).alias("n1"),
    )
    assert drift(window(2_000, seed=0), holes, Monitor()).drifted == ()


def test_a_boolean_is_compared_with_the_number_that_the_log_made_of_it(window: Window) -> None:
    reference = window(2_000, seed=0).with_columns(pl.col("n0") > 0)
    current = window(2_000, seed=1).with_columns((pl.col("n0") > 0.8).cast(pl.Float64))
    assert drift(reference, current, Monitor()).drifted == ("n0",)


@pytest.mark.parametrize(
    ("reference", "current", "kind"),
    [
        (pl.Int64(), pl.Float32(), "numeric"),
        (pl.Boolean(), pl.Boolean(), "categorical"),
        (pl.Boolean(), pl.Float64(), "numeric"),
        (pl.String(), pl.Categorical(), "categorical"),
        (pl.Null(), pl.String(), "categorical"),
        (pl.Null(), pl.Null(), "numeric"),
        (pl.String(), pl.Float64(), None),
        (pl.Date(), pl.Date(), None),
    ],
)
def test_kinds(reference: pl.DataType, current: pl.DataType, kind: str | None) -> None:
    assert kind_of(reference, current) == kind


def test_adjusted_p_values_are_those_of_the_paper() -> None:
    """The fifteen p-values of Benjamini and Hochberg's example: four rejected at 0.05."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    p_values += [0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    adjusted = adjusted_p_values(p_values)
    assert sum(value <= 0.05 for value in adjusted) == 4
    assert adjusted[3] == pytest.approx(0.0095 * 15 / 4)
    assert adjusted == sorted(adjusted)


def test_adjusted_p_values_keep_the_order_given_and_stay_below_one() -> None:
    assert adjusted_p_values([0.9, 0.01, 0.8]) == pytest.approx([0.9, 0.03, 0.9])
    assert adjusted_p_values([]) == []


def test_the_result_is_json(window: Window) -> None:
    found = drift(window(600, seed=0), window(600, seed=1).drop("n0"), Monitor())
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["rows"] == 600


def test_many_rare_categories_and_few_rows_are_no_drift(window: Window) -> None:
    """Two samples of a hundred categories lie 0.17 apart with 500 rows, more than the floor, without any change."""
    names = [f"d{i}" for i in range(100)]
    frames = [
        window(rows, seed=seed, numbers=1, texts=0).with_columns(
            pl.Series("dest", np.random.default_rng(seed).choice(names, rows))
        )
        for seed, rows in ((0, 5_000), (1, 500))
    ]
    column = next(column for column in drift(*frames, Monitor(alpha=1.0)).columns if column.name == "dest")
    assert column.effect is not None
    assert column.effect > 0.1
    assert not column.drifted


def test_each_window_of_a_reference_has_its_share_of_alpha(window: Window) -> None:
    frames = window(2_000, seed=0), window(2_000, seed=1, shift=0.14, shifted=1)
    alone = drift(*frames, Monitor(min_effect=0.0, alpha=0.05))
    p_value = next(column.p_adjusted for column in alone.columns if column.name == "n0")
    assert p_value is not None
    assert "n0" in alone.drifted
    shared = drift(*frames, Monitor(min_effect=0.0, alpha=0.05), windows=int(0.05 / p_value) + 1)
    assert "n0" not in shared.drifted
