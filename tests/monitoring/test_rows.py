from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl

from monitoring.rows import inside, last_of_each_row, sample

Frames = Callable[..., pl.DataFrame]
START = datetime(2013, 4, 1, tzinfo=UTC)


def test_a_window_takes_its_start_and_leaves_its_end(window: Frames, logged: Frames) -> None:
    rows = logged(window(7, seed=0))  # one a day
    found = inside(rows, START + timedelta(days=1), START + timedelta(days=3))
    assert found["row_key"].to_list() == ["1", "2"]


def test_rows_that_all_count_are_not_copied(window: Frames, logged: Frames) -> None:
    rows = logged(window(50, seed=0))
    assert inside(rows, START, START + timedelta(days=7)) is rows
    assert last_of_each_row(rows) == (rows, 0)


def test_the_last_prediction_of_a_row_is_the_one_served_last(window: Frames, logged: Frames) -> None:
    rows = logged(window(50, seed=0))
    later = rows.with_columns(pl.col("served_at") + timedelta(minutes=1), pl.lit(0.25).alias("score"))
    kept, others = last_of_each_row(pl.concat([later, rows]))
    assert (kept["score"].unique().to_list(), kept.height, others) == ([0.25], 50, 50)


def test_predictions_without_a_key_are_all_kept(window: Frames, logged: Frames) -> None:
    rows = logged(window(20, seed=0)).with_columns(pl.lit("").alias("row_key"))
    assert last_of_each_row(pl.concat([rows, rows]))[0].height == 40


def test_a_sample_does_not_depend_on_the_order_of_arrival(window: Frames, logged: Frames) -> None:
    rows = logged(window(500, seed=0))
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=3)
    assert sample(rows, 100, 1).equals(sample(shuffled, 100, 1))
    assert sample(rows, 500, 1).equals(sample(shuffled, 500, 1))


def test_rows_without_any_order_are_drawn_as_they_stand(window: Frames) -> None:
    rows = window(300, seed=0)
    assert sample(rows, 100, 1).equals(sample(rows, 100, 1))
    assert not sample(rows, 100, 1).equals(sample(rows, 100, 2))
