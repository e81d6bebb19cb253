"""A miscalibrated model is found; chance, small errors and a hard week are not held against one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from millrace.quality import calibration_error, quality
from training.gate import CalibrationTest, calibration_test
from training.gate.calibration import check_calibration

Array = NDArray[Any]


def world(rows: int = 2_000, *, seed: int = 0, turned: float = 0.0) -> tuple[Array, Array]:
    """Outcomes, and probabilities that are right but for `turned` in logits."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 1.2, size=rows)
    y = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    return y, 1 / (1 + np.exp(-(logit + turned)))


def classes(rows: int = 2_000, *, seed: int = 0, heat: float = 1.0) -> tuple[Array, Array]:
    """Outcomes among four classes, and probabilities that are right at a heat of 1, too sure above it."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 1.5, size=(rows, 4))
    truth = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    y = (random.random(rows)[:, None] > truth.cumsum(axis=1)).sum(axis=1)
    given = np.exp(heat * logit)
    return y, given / given.sum(axis=1, keepdims=True)


def test_the_error_is_the_one_that_quality_tells() -> None:
    for y, p in (world(), classes()):
        assert calibration_test(y, p).error == quality(y, p).calibration_error


def test_a_calibrated_model_passes_as_chance() -> None:
    found = calibration_test(*world())
    check = check_calibration(found)
    assert check.passed
    assert check.reason == (
        f"Its calibration error is {found.error:.3f}: no more than chance gives a calibrated model ({found.null:.3f})."
    )


def test_a_large_error_of_few_rows_is_chance() -> None:
    found = calibration_test(*world(60))
    assert 0.05 < found.error < found.null
    assert check_calibration(found).passed


def test_the_null_is_what_calibrated_models_exceed_in_one_case_of_a_hundred() -> None:
    above = 0
    for seed in range(200):
        found = calibration_test(*world(300, seed=seed), draws=200)
        above += found.error > found.null
    assert 0 < above <= 7


def test_the_null_of_classes_is_that_of_the_most_probable_one() -> None:
    above = sum(
        (found := calibration_test(*classes(300, seed=seed), draws=200)).error > found.null for seed in range(200)
    )
    assert 0 < above <= 7


@pytest.mark.parametrize("rows", [world(turned=0.8), classes(heat=3.0)])
def test_a_model_that_is_too_sure_is_refused_with_its_figures(rows: tuple[Array, Array]) -> None:
    found = calibration_test(*rows)
    check = check_calibration(found)
    assert not check.passed
    assert check.reason == (
        f"Its calibration error is {found.error:.3f}: a calibrated model would have at most {found.null:.3f}, and 0.05 "
        "is the most allowed."
    )
    assert check.figures["floor"] == 0.05


def test_a_small_error_is_allowed_however_many_rows_prove_it() -> None:
    found = calibration_test(*world(50_000, turned=0.15), draws=100)
    assert found.null < found.error < 0.05
    check = check_calibration(found)
    assert check.passed
    assert check.reason.endswith(f"a calibrated model would have at most {found.null:.3f}, and 0.05 is allowed.")


def test_a_hard_week_that_the_champion_shares_is_not_held_against_the_challenger() -> None:
    y, p = world(turned=0.8)
    _, champions = world(turned=0.85)
    found = calibration_test(y, p, champion=champions, baseline=p)
    assert found.against == "champion"
    assert found.reference == calibration_error(y, champions)
    check = check_calibration(found)
    assert check.passed
    assert check.reason.endswith(
        f"the champion's on the same rows {found.reference:.3f}: above the 0.05 allowed, but no worse than the "
        "champion's beyond chance."
    )


def test_without_a_champion_the_baseline_is_the_reference() -> None:
    y, p = world(turned=0.8)
    found = calibration_test(y, p, baseline=world(turned=0.8)[1])
    assert found.against == "baseline"
    assert found.excess == (0.0, 0.0)
    assert check_calibration(found).passed


def test_worse_than_the_champion_beyond_chance_is_refused() -> None:
    y, p = world(turned=0.8)
    found = calibration_test(y, p, champion=world()[1])
    assert found.excess is not None
    assert found.excess[0] > 0
    assert not check_calibration(found).passed


def test_rows_of_one_hour_widen_the_excess() -> None:
    y, p = world(400)
    champions = np.clip(p + np.random.default_rng(0).normal(0, 0.2, 400), 0.01, 0.99)
    y, p, champions = (np.repeat(values, 10) for values in (y, p, champions))
    alone = calibration_test(y, p, champion=champions).excess
    grouped = calibration_test(y, p, champion=champions, groups=np.arange(4_000) // 10).excess
    assert alone is not None
    assert grouped is not None
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])


def test_the_same_seed_gives_the_same_test() -> None:
    y, p = world(500)
    assert calibration_test(y, p, champion=p**2, seed=5) == calibration_test(y, p, champion=p**2, seed=5)


def test_equal_scores_and_a_single_outcome_are_no_trouble() -> None:
    assert calibration_test([0] * 50, [0.0] * 50) == CalibrationTest(50, 0.0, 0.0)
    assert not check_calibration(calibration_test([1] * 50, [0.2] * 50)).passed


def test_no_rows_are_not_held_against_a_model() -> None:
    found = calibration_test([], [], champion=[])
    assert np.isnan(found.error)
    assert check_calibration(found).passed


@pytest.mark.parametrize("p", [[0.1, np.nan], [0.1, 1.5], [0.1]])
def test_scores_that_are_no_probabilities_are_refused(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"probabilities|length"):
        calibration_test([0, 1], p)


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must hold one value"):
        calibration_test([0, 1], [0.1, 0.2], champion=[0.1, 0.2], groups=[1])
