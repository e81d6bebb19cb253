"""A unit that changed is seen by the shares of magnitudes, in all rows or in a part; growth and seasons are not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.magnitudes import Jump, find_jump, magnitudes

TOLERANCE, PART = 3.0, 0.05


def jump(batch: list[float | None], *stretches: list[float | None]) -> Jump | None:
    """The jump of a batch of values against stretches of them."""
    past = pl.concat(
        [
            pl.DataFrame({"at": [at] * len(s), "x": s}, schema={"at": pl.Int32, "x": pl.Float64})
            for at, s in enumerate(stretches)
        ]
    )
    now = magnitudes(pl.LazyFrame({"x": batch}, schema={"x": pl.Float64}), "x", TOLERANCE).collect()
    then = magnitudes(past.lazy(), "x", TOLERANCE, by=("at",)).collect()
    return find_jump(now, then, "at", TOLERANCE, PART)


def lengths(number: int, seed: int = 0) -> list[float | None]:
    """Values with a long tail, like delays."""
    drawn: list[float | None] = np.random.default_rng(seed).lognormal(2, 1, number).tolist()
    return drawn


def scaled(values: list[float | None], factor: float, share: float = 1.0) -> list[float | None]:
    return [
        value if value is None or number % 100 >= share * 100 else value * factor for number, value in enumerate(values)
    ]


@pytest.mark.parametrize("factor", [100, 10, 0.1, 0.01])
def test_a_changed_unit_is_a_jump(factor: float) -> None:
    found = jump(scaled(lengths(1000, 1), factor), lengths(1000), lengths(1000, 2))
    assert found is not None
    assert found.larger is (factor > 1)
    assert found.share > found.before + PART


@pytest.mark.parametrize("factor", [100, 0.01])
def test_a_changed_unit_in_a_part_of_the_rows_is_a_jump(factor: float) -> None:
    assert jump(scaled(lengths(1000, 1), factor, 0.3), lengths(1000), lengths(1000, 2)) is not None


def test_signs_do_not_hide_it() -> None:
    both = scaled(lengths(1000), -1, 0.5)
    assert jump(scaled(both, 100), both) is not None


@pytest.mark.parametrize("factor", [2.5, 1 / 2.5])
def test_growth_up_to_the_tolerance_is_none(factor: float) -> None:
    assert jump(scaled(lengths(1000, 1), factor), lengths(1000)) is None


def test_what_one_stretch_had_is_none() -> None:
    assert jump(scaled(lengths(1000, 1), 100), lengths(1000), scaled(lengths(1000, 2), 100)) is None


def test_a_few_values_far_out_are_none() -> None:
    assert jump(scaled(lengths(1000, 1), 1000, 0.05), lengths(1000)) is None


@pytest.mark.parametrize("batch", [[], [None] * 50, [0.0] * 50, [float("nan")] * 50, [float("inf")] * 50, [1000.0] * 9])
def test_too_few_values_with_a_magnitude_are_not_judged(batch: list[float | None]) -> None:
    assert jump(batch, lengths(100)) is None
    assert jump(lengths(100), batch) is None


def test_the_thresholds_lie_a_tolerance_apart() -> None:
    found = jump([100.0] * 100, [1.0] * 100)
    assert found is not None
    assert found.threshold / found.bound == pytest.approx(TOLERANCE)
    assert (found.share, found.before) == (1.0, 0.0)


numbers = st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=60)


@given(numbers, st.floats(-2.9, 2.9))
def test_a_batch_like_a_stretch_within_the_tolerance_never_jumps(values: list[float], factor: float) -> None:
    values = [value for value in values if abs(value) > 1e-6]
    smaller_steps = 1 / 3 < abs(factor) < 3
    assert not smaller_steps or jump([value * factor for value in values], [*values]) is None


@given(numbers, numbers)
def test_more_history_never_makes_a_jump(values: list[float], more: list[float]) -> None:
    batch: list[float | None] = [value * 7 for value in values]
    if jump(batch, [*values]) is None:
        assert jump(batch, [*values], [*more]) is None
