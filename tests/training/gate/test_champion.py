"""When a challenger replaces the champion, and when it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from math import isnan, nan
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from millrace import Budget, at_least, at_most
from millrace.quality import Difference, Quality, paired_difference, row_log_losses
from training.gate import ChampionOnSameRows, Check, Compared, compare_with_champion
from training.gate.champion import check_champion, equal_margin

Champion = Callable[..., ChampionOnSameRows]
MONTH = timedelta(days=28)
CHEAP = {"p50_ms": 0.3, "p99_ms": 0.5, "memory_mb": 8.0, "bundle_mb": 0.4}
DEAR = {"p50_ms": 0.9, "p99_ms": 1.5, "memory_mb": 9.0, "bundle_mb": 0.4}


def ruled(champion: ChampionOnSameRows, cost: dict[str, float] | None = None, budget: Budget | None = None) -> Check:
    return check_champion(champion, budget or Budget(), CHEAP if cost is None else cost)


def test_a_challenger_that_is_better_beyond_chance_passes(champion: Champion) -> None:
    found = ruled(champion(-0.01, -0.015, -0.004))
    assert found.passed
    assert found.figures["rule"] == "better"
    assert found.reason == (
        "On the same 5,000 rows its log loss is 0.0100 lower than that of champion version 3 "
        "(95 % interval -0.0150 to -0.0040): better beyond chance."
    )


def test_a_challenger_whose_gain_may_be_chance_is_refused(champion: Champion) -> None:
    found = ruled(champion(-0.01, -0.025, 0.004))
    assert not found.passed
    assert found.reason.endswith("that may be chance.")


def test_a_challenger_that_is_worse_is_refused(champion: Champion) -> None:
    found = ruled(champion(0.001, -0.008, 0.01))
    assert not found.passed
    assert found.reason.endswith(
        "0.0010 higher than that of champion version 3 (95 % interval -0.0080 to +0.0100): not better."
    )


def test_a_challenger_that_is_the_same_is_refused(champion: Champion) -> None:
    found = ruled(champion(0.0, 0.0, 0.0, cost=CHEAP))
    assert not found.passed
    assert "its log loss is equal to that of champion version 3" in found.reason


def test_without_a_row_to_compare_on_nothing_is_better(champion: Champion) -> None:
    nothing = champion(nan, nan, nan, cost=DEAR, difference=Difference(nan, nan, nan, 0, 0))
    assert not ruled(nothing).passed
    assert ruled(nothing).reason == ("There are no rows to compare it on with champion version 3: nothing is known.")


def test_against_an_old_champion_less_certainty_suffices_the_longer_it_was_not_challenged(champion: Champion) -> None:
    maybe = (-0.01, -0.022, 0.002)  # one-sided p of 0.05
    for days, passes in ((0, False), (7, False), (8, False), (9, True), (28, True)):
        assert ruled(champion(*maybe, age=MONTH, unchallenged=timedelta(days=days))).passed is passes
    assert not ruled(champion(*maybe, age=MONTH)).passed
    assert not ruled(champion(*maybe, age=MONTH - timedelta(days=1), unchallenged=MONTH)).passed


def test_what_sufficed_against_an_old_champion_is_told(champion: Champion) -> None:
    found = ruled(champion(-0.01, -0.022, 0.002, age=1.5 * MONTH, unchallenged=timedelta(days=14)))
    assert found.figures["rule"] == "old"
    assert found.figures["chance_allowed"] == pytest.approx(0.08)
    assert found.figures["p_value"] == pytest.approx(0.0512, abs=1e-4)
    assert found.reason.endswith(
        "better with 95 % confidence, which suffices against a champion that is 42 days old, when the last training "
        "was 14 days ago."
    )


def test_the_p_value_of_the_comparison_comes_before_that_of_the_interval(champion: Champion) -> None:
    old: dict[str, Any] = {"age": MONTH, "unchallenged": timedelta(days=14)}
    unsure = Compared(-0.01, -0.022, 0.002, 5_000, 168, p_value=0.09)
    assert not ruled(champion(-0.01, -0.022, 0.002, difference=unsure, **old)).passed
    sure = Compared(-0.01, -0.03, 0.01, 5_000, 168, p_value=0.07)
    assert ruled(champion(-0.01, -0.03, 0.01, difference=sure, **old)).passed


def test_after_a_quarter_without_a_challenge_whatever_measures_better_suffices(champion: Champion) -> None:
    barely = (-0.001, -0.01, 0.008)
    assert ruled(champion(*barely, age=4 * MONTH, unchallenged=timedelta(weeks=13))).passed
    assert not ruled(champion(*barely, age=4 * MONTH, unchallenged=MONTH)).passed


@pytest.mark.parametrize("interval", [(0.001, -0.008, 0.01), (0.0, 0.0, 0.0)])
def test_no_age_excuses_a_challenger_that_is_not_better(
    champion: Champion, interval: tuple[float, float, float]
) -> None:
    assert not ruled(champion(*interval, age=20 * MONTH, unchallenged=20 * MONTH)).passed


def test_a_successor_of_newer_rows_that_is_not_shown_to_be_worse_passes(champion: Champion) -> None:
    found = ruled(champion(0.004, -0.001, 0.009, news=0.08))
    assert (found.passed, found.figures["rule"]) == (True, "newer")
    assert found.reason.endswith(
        "8% of what it learned from is newer than all that this champion has seen, and it is not shown to be worse by "
        "0.0090."
    )


@pytest.mark.parametrize("news", [None, 0.0, 0.049, nan])
def test_a_successor_of_hardly_newer_rows_is_not_presumed_to_be_better(champion: Champion, news: float | None) -> None:
    assert not ruled(champion(0.001, -0.001, 0.003, news=news)).passed


def test_a_successor_that_is_shown_to_be_worse_is_refused_however_new(champion: Champion) -> None:
    assert not ruled(champion(0.012, 0.0091, 0.015, news=0.5)).passed
    assert not ruled(champion(0.012, 0.0091, 0.015, news=0.5)).figures["rule"]


def test_a_hold_out_that_shows_little_does_not_let_a_much_worse_successor_pass(champion: Champion) -> None:
    assert not ruled(champion(0.02, -0.02, 0.06, news=0.5)).passed


def test_no_rows_to_compare_on_presume_nothing(champion: Champion) -> None:
    nothing = champion(nan, nan, nan, news=0.5, difference=Difference(nan, nan, nan, 0, 0))
    assert not ruled(nothing).passed


def test_an_equal_challenger_that_is_clearly_cheaper_passes(champion: Champion) -> None:
    found = ruled(champion(0.001, -0.002, 0.004, cost=DEAR))
    assert found.passed
    assert found.figures["rule"] == "cheaper"
    assert found.reason.endswith("equal within 0.0050 nats, and cheaper (p99 latency of one row 0.5 against 1.5 ms).")


def test_a_cheaper_challenger_that_may_be_worse_than_the_margin_is_refused(champion: Champion) -> None:
    assert not ruled(champion(0.001, -0.003, 0.0051, cost=DEAR)).passed


def test_what_is_equal_shrinks_with_the_champions_own_loss(champion: Champion) -> None:
    rare = champion(0.0, -0.003, 0.003, cost=DEAR, loss=0.02)
    assert equal_margin(rare) == pytest.approx(0.0004)
    assert not ruled(rare).passed


def test_without_the_champions_cost_nothing_is_cheaper(champion: Champion) -> None:
    assert not ruled(champion(0.0, -0.002, 0.002)).passed


def test_a_cost_that_the_budget_limits_and_that_is_higher_outweighs_the_cheaper_one(champion: Champion) -> None:
    slow_start, champions = CHEAP | {"cold_start_ms": 900.0}, DEAR | {"cold_start_ms": 200.0}
    equal = champion(0.0, -0.002, 0.002, cost=champions)
    assert ruled(equal, slow_start).passed
    assert not ruled(equal, slow_start, Budget(at_most(cold_start_ms=1_000))).passed


@pytest.mark.parametrize(("memory", "passes"), [(140.0, True), (105.0, False), (95.0, False)])
def test_a_champion_that_breaks_the_budget_beyond_noise_keeps_nobody_out(
    champion: Champion, memory: float, passes: bool
) -> None:
    worse = champion(0.02, 0.01, 0.03, cost=DEAR | {"memory_mb": memory})
    found = ruled(worse, DEAR | {"memory_mb": 90.0}, Budget(at_most(memory_mb=100)))
    assert found.passed is passes
    assert ("that champion breaks the budget itself (Memory added by the model)" in found.reason) is passes


@pytest.mark.parametrize(("high", "passes"), [(0.69, True), (0.71, False)])
def test_a_champion_whose_quality_misses_the_budget_beyond_chance_keeps_nobody_out(
    champion: Champion, measured: Callable[..., Quality], high: float, passes: bool
) -> None:
    poor = measured(roc_auc=0.67, roc_auc_interval=(0.65, high))
    assert ruled(champion(0.0, -0.01, 0.01, quality=poor), budget=Budget(at_least(roc_auc=0.7))).passed is passes


def test_a_champion_of_unmeasured_cost_does_not_break_the_budget(champion: Champion) -> None:
    assert not ruled(champion(0.0, -0.01, 0.01), budget=Budget(at_most(memory_mb=1, joules_per_1000=1))).passed


def test_a_champion_that_cannot_predict_does_not_keep_others_out() -> None:
    broken = ChampionOnSameRows(3, MONTH, MONTH, incomparable="The model takes wind, which the rows do not have.")
    found = ruled(broken)
    assert found.passed
    assert found.reason == ("Champion version 3 cannot be compared: The model takes wind, which the rows do not have.")


def pair(rows: int = 3_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes, the scores of two models that are equally good, and the hours of the rows."""
    random = np.random.default_rng(seed)
    truth = random.beta(2, 6, size=rows)
    first, second = (np.clip(truth + random.normal(0, 0.05, size=rows), 0.01, 0.99) for _ in range(2))
    return (random.random(rows) < truth).astype(np.int8), first, second, np.arange(rows) // 20


def test_one_challenger_has_the_interval_of_the_paired_bootstrap() -> None:
    y, first, second, hours = pair()
    found = compare_with_champion(y, {"a": second}, first, hours)["a"]
    wanted = paired_difference(row_log_losses(y, second) - row_log_losses(y, first), hours)
    assert found.mean == pytest.approx(wanted.mean, abs=1e-12)
    assert (found.rows, found.groups) == (3_000, 150)
    width = wanted.high - wanted.low
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.06 * width)


def test_several_different_challengers_widen_the_interval_and_copies_of_one_do_not() -> None:
    y, first, second, hours = pair()
    alone = compare_with_champion(y, {"a": second}, first, hours)["a"]
    copies = compare_with_champion(y, {str(i): second for i in range(8)}, first, hours)["0"]
    others = {str(i): pair(seed=i)[2] for i in range(1, 8)}
    among = compare_with_champion(y, {"a": second} | others, first, hours)["a"]
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))
    assert among.high - among.low > 1.2 * (alone.high - alone.low)


def test_rows_of_one_hour_count_as_one() -> None:
    y, first, second, _ = pair(rows=300)
    repeated = [np.repeat(values, 10) for values in (y, first, second)]
    alone = compare_with_champion(repeated[0], {"a": repeated[2]}, repeated[1])["a"]
    grouped = compare_with_champion(repeated[0], {"a": repeated[2]}, repeated[1], np.arange(3_000) // 10)["a"]
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)


def test_classes_are_compared_like_two_outcomes() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 3, size=900)
    sure = np.full((900, 3), 0.05) + 0.85 * np.eye(3)[y]
    even = np.full((900, 3), 1 / 3)
    found = compare_with_champion(y, {"sure": sure}, even)["sure"]
    assert found.mean == pytest.approx(np.log(1 / 3) - np.log(0.9))
    assert found.high < 0


def test_no_rows_and_no_challengers_give_nothing() -> None:
    none = compare_with_champion([], {"a": []}, [])["a"]
    assert isnan(none.mean)
    assert isnan(none.p_value)
    assert none.rows == 0
    assert compare_with_champion([0, 1], {}, [0.5, 0.5]) == {}


def test_the_same_seed_gives_the_same_interval() -> None:
    y, first, second, hours = pair()
    found = compare_with_champion(y, {"a": second}, first, hours, seed=3)
    assert compare_with_champion(y, {"a": second}, first, hours, seed=3) == found
    assert compare_with_champion(y, {"a": second}, first, hours, seed=4) != found


def test_the_p_value_is_that_of_the_interval_for_one_and_grows_with_several() -> None:
    y, first, second, hours = pair(seed=5)
    alone = compare_with_champion(y, {"a": second}, first, hours)["a"]
    half = alone.high - alone.mean
    assert alone.p_value == pytest.approx(NormalDist().cdf(alone.mean / (half / 1.96)), abs=0.03)
    others = {str(i): pair(seed=i)[2] for i in range(6, 12)}
    assert compare_with_champion(y, {"a": second} | others, first, hours)["a"].p_value > alone.p_value


def test_the_same_model_twice_has_a_p_value_of_1() -> None:
    y, first, _, hours = pair()
    found = compare_with_champion(y, {"a": first}, first, hours)["a"]
    assert (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_with_fewer_than_ten_hours_rows_stand_alone() -> None:
    y, first, second, _ = pair(rows=600)
    one = compare_with_champion(y, {"a": second}, first, np.zeros(600))["a"]
    assert one == compare_with_champion(y, {"a": second}, first)["a"]
    assert one.groups == 600
    assert one.low < one.mean < one.high


def test_groups_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must hold one value for each of the 2 rows"):
        compare_with_champion([0, 1], {"a": [0.2, 0.3]}, [0.1, 0.2], [1])


def test_scores_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        compare_with_champion([0, 1, 1], {"a": [0.2, 0.3]}, [0.1, 0.2, 0.3])
