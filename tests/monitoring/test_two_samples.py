import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from monitoring.two_samples import TESTS, Kind, beyond_chance, chi_square_p_value, compare, register_tests


def test_equal_samples_have_no_effect() -> None:
    numbers = np.linspace(0.0, 1.0, 500)
    codes = np.arange(500) % 7
    assert compare("numeric", numbers, numbers).effect == 0.0
    assert compare("categorical", codes, codes).effect == 0.0
    assert compare("categorical", codes, codes).p_value == 1.0


def test_the_effect_of_numbers_is_in_standard_deviations_of_the_reference() -> None:
    numbers = np.random.default_rng(0).normal(0, 3, 4_000)
    assert compare("numeric", numbers, numbers + 1.5).effect == pytest.approx(1.5 / numbers.std())


def test_disjoint_categories_have_the_largest_effect() -> None:
    found = compare("categorical", np.zeros(100, dtype=np.int64), np.ones(100, dtype=np.int64))
    assert found.effect == pytest.approx(np.sqrt(np.log(2)))
    assert found.p_value < 1e-20


def test_figures_are_plain_floats() -> None:
    found = compare("numeric", np.arange(50.0), np.arange(60.0))
    assert type(found.p_value) is float
    assert type(found.effect) is float


@pytest.mark.parametrize(("categories", "rows"), [(2, 5_000), (16, 5_000), (100, 5_000), (100, 500)])
def test_unchanged_categories_are_rejected_no_more_often_than_alpha(categories: int, rows: int) -> None:
    rng = np.random.default_rng(categories + rows)
    shares = rng.dirichlet(np.ones(categories))
    draws = [(rng.multinomial(5_000, shares), rng.multinomial(rows, shares)) for _ in range(400)]
    rejected = sum(chi_square_p_value(left, right) < 0.05 for left, right in draws)
    assert rejected <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_evidently_s_own_chi_square_rejects_unchanged_categories() -> None:
    """The reason for a test of our own; when this fails, Evidently's can be used again."""
    from evidently.legacy.calculations.stattests import chi_stat_test
    from evidently.legacy.core import ColumnType

    rng = np.random.default_rng(0)
    draws = [[pd.Series(rng.integers(0, 16, 5_000)) for _ in range(2)] for _ in range(40)]
    rejected = sum(chi_stat_test(left, right, ColumnType.Categorical, 0.05).drifted for left, right in draws)
    assert rejected > 20


def test_rare_categories_are_tested_as_one() -> None:
    common, rare = np.array([500, 500]), np.ones(40, dtype=np.int64)
    p_value = chi_square_p_value(np.r_[common, rare, 0 * rare], np.r_[common, 0 * rare, rare])
    assert p_value == pytest.approx(1.0)


def test_a_single_category_leaves_nothing_to_test() -> None:
    assert chi_square_p_value(np.array([10]), np.array([20])) == 1.0


def test_our_test_is_known_to_evidently_by_name() -> None:
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    register_tests()
    column = pd.Series(["a", "b"] * 50)
    named = get_stattest(column, column, ColumnType.Categorical, TESTS["categorical"])
    assert named(column, column, ColumnType.Categorical, 0.05).drift_score == 1.0


def test_the_vendor_s_warnings_stay_inside() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        compare("numeric", np.zeros(5), np.ones(5))
    assert heard == []


@pytest.mark.parametrize(
    ("rows", "kind", "categories"), [(500, "numeric", 0), (500, "categorical", 100), (5_000, "categorical", 3_000)]
)
def test_the_chance_of_a_distance_is_what_unchanged_samples_show(rows: int, kind: Kind, categories: int) -> None:
    random = np.random.default_rng(0)

    def draw(n: int) -> NDArray[Any]:
        return random.integers(0, categories, n) if categories else random.lognormal(size=n)

    found = [compare(kind, draw(5_000), draw(rows)) for _ in range(20)]
    shown = np.sqrt(np.mean([one.effect**2 for one in found]))
    assert np.mean([one.chance for one in found]) == pytest.approx(shown, rel=0.25)


def test_a_distance_well_beyond_chance_is_hardly_lowered() -> None:
    assert beyond_chance(1.0, 0.1) == pytest.approx(0.995, abs=1e-3)
    assert beyond_chance(0.05, 0.1) == 0.0


def test_constant_samples_have_no_distance_by_chance() -> None:
    assert compare("numeric", np.zeros(600), np.zeros(600)).chance == 0.0
    assert compare("categorical", np.zeros(600, dtype=int), np.zeros(600, dtype=int)).chance == 0.0
