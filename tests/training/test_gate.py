"""A verdict follows from measurements alone, and says why in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from math import nan
from typing import Any

import numpy as np
import pytest

from features.parity import Mismatch, Parity
from millrace import Budget, at_least, at_most
from millrace.quality import Difference, Quality, paired_difference, quality, row_log_losses
from training.gate import ChampionOnSameRows, judge

BUDGET = Budget(at_least(roc_auc=0.7), at_most(log_loss=0.5, p99_ms=10, memory_mb=100, bundle_mb=20))
COST = {"p50_ms": 0.02, "p99_ms": 0.5, "memory_mb": 8.0, "bundle_mb": 0.4}
MONTH = timedelta(days=28)


def measured(**changed: float) -> Quality:
    base: dict[str, Any] = {
        "rows": 5_000, "positives": 1_000, "roc_auc": 0.74, "roc_auc_interval": (0.72, 0.76), "log_loss": 0.45,
        "log_loss_interval": (0.44, 0.46), "brier": 0.14, "calibration_error": 0.01,
    }  # fmt: skip
    return Quality(**base | changed)


def champion(mean: float, low: float, high: float, age: timedelta = timedelta(days=7)) -> ChampionOnSameRows:
    return ChampionOnSameRows(3, age, MONTH, measured(), Difference(mean, low, high, 5_000, 168))


def test_a_model_within_its_budget_passes_with_every_limit_and_its_margin() -> None:
    verdict = judge(BUDGET, quality=measured(), cost=COST)
    assert verdict.passed
    assert verdict.against == ()
    assert [(one.metric, one.measured, one.passed) for one in verdict.limits] == [
        ("roc_auc", 0.74, True),
        ("log_loss", 0.45, True),
        ("p99_ms", 0.5, True),
        ("memory_mb", 8.0, True),
        ("bundle_mb", 0.4, True),
    ]
    assert [one.margin for one in verdict.limits] == pytest.approx([0.04, 0.05, 9.5, 92, 19.6])
    assert "p99 latency of one row is 0.5 ms, at most 10 ms as wanted." in verdict.reasons


@pytest.mark.parametrize(
    ("quality_changed", "cost_changed", "says"),
    [
        ({"roc_auc": 0.66}, {}, "ROC AUC is 0.66 and must be at least 0.7: it misses by 0.04."),
        ({"log_loss": 0.52}, {}, "Log loss is 0.52 and must be at most 0.5: it misses by 0.02."),
        ({}, {"p99_ms": 12.5}, "p99 latency of one row is 12.5 ms and must be at most 10 ms: it misses by 2.5 ms."),
        (
            {},
            {"memory_mb": 120.0},
            "Memory added by the model is 120 MB and must be at most 100 MB: it misses by 20 MB.",
        ),
        ({}, {"bundle_mb": 21.0}, "Size of the bundle is 21 MB and must be at most 20 MB: it misses by 1 MB."),
        ({"roc_auc": nan}, {}, "ROC AUC is unmeasured and must be at least 0.7."),
    ],
)
def test_one_missed_limit_refuses_and_is_told_first(
    quality_changed: dict[str, float], cost_changed: dict[str, float], says: str
) -> None:
    verdict = judge(BUDGET, quality=measured(**quality_changed), cost=COST | cost_changed)
    assert not verdict.passed
    assert verdict.against == (says,)
    assert verdict.reasons[0] == says
    assert len(verdict.reasons) == 5


def test_what_was_not_measured_is_not_kept() -> None:
    verdict = judge(BUDGET, quality=measured(), cost={"p99_ms": 0.5, "bundle_mb": 1.0})
    assert not verdict.passed
    assert verdict.against == ("Memory added by the model is unmeasured and must be at most 100 MB.",)


def test_a_bound_that_is_met_exactly_is_kept() -> None:
    assert judge(Budget(at_least(roc_auc=0.74), at_most(p99_ms=0.5)), quality=measured(), cost=COST).passed


@pytest.mark.parametrize(("loss", "passes"), [(0.46, True), (0.45, False), (0.44, False)])
def test_the_baseline_must_have_the_higher_loss(loss: float, passes: bool) -> None:
    verdict = judge(Budget(), quality=measured(), cost={}, baseline=measured(log_loss=loss))
    assert verdict.passed is passes
    assert ("It beats the baseline" in verdict.reasons[0]) is passes


def test_features_that_are_the_same_online_are_told() -> None:
    same = Parity(rows=300, values=9_000, mismatches=0, first=(), seconds=0.5)
    verdict = judge(BUDGET, quality=measured(), cost=COST, parity=same, baseline=measured(log_loss=0.5))
    assert verdict.passed
    assert verdict.reasons[len(verdict.limits)] == str(same)


def test_one_feature_value_that_differs_online_refuses_whatever_the_model_is_worth() -> None:
    told = Mismatch("route", "delay", {"origin": "JFK"}, datetime(2013, 4, 1, tzinfo=UTC), 1.5, float("nan"))
    differs = Parity(rows=300, values=9_000, mismatches=1, first=(told,), seconds=0.5)
    verdict = judge(BUDGET, quality=measured(), cost=COST, parity=differs, champion=champion(-0.01, -0.015, -0.004))
    assert not verdict.passed
    assert verdict.against == (str(differs),)
    assert "1 of the 9,000 feature values of 300 training rows differ" in verdict.against[0]
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["passed"] is False


def test_a_challenger_that_is_better_beyond_chance_passes() -> None:
    verdict = judge(BUDGET, quality=measured(), cost=COST, champion=champion(-0.01, -0.015, -0.004))
    assert verdict.passed
    assert verdict.reasons[-1] == (
        "On the same 5,000 rows its log loss is 0.0100 lower than that of champion version 3 "
        "(95 % interval -0.0150 to -0.0040): better beyond chance."
    )


def test_a_challenger_whose_gain_may_be_chance_is_refused() -> None:
    verdict = judge(BUDGET, quality=measured(), cost=COST, champion=champion(-0.01, -0.025, 0.004))
    assert not verdict.passed
    assert verdict.against[0].endswith("that may be chance.")


def test_a_challenger_that_is_no_worse_replaces_an_old_champion() -> None:
    verdict = judge(BUDGET, quality=measured(), cost=COST, champion=champion(-0.001, -0.01, 0.008, age=MONTH))
    assert verdict.passed
    assert verdict.reasons[-1].endswith("no worse, and that champion is 28 days old.")


def test_a_challenger_that_is_worse_does_not_replace_an_old_champion() -> None:
    verdict = judge(BUDGET, quality=measured(), cost=COST, champion=champion(0.001, -0.008, 0.01, age=2 * MONTH))
    assert not verdict.passed
    assert verdict.against[0].endswith("not better.")


def test_beating_the_champion_does_not_excuse_a_missed_limit() -> None:
    better = champion(-0.01, -0.015, -0.004)
    assert not judge(BUDGET, quality=measured(), cost=COST | {"memory_mb": 500.0}, champion=better).passed


def test_a_champion_that_cannot_predict_does_not_keep_others_out() -> None:
    broken = ChampionOnSameRows(3, MONTH, MONTH, incomparable="The model takes wind, which the rows do not have.")
    verdict = judge(BUDGET, quality=measured(), cost=COST, champion=broken)
    assert verdict.passed
    assert "cannot be compared: The model takes wind" in verdict.reasons[-1]


def test_a_verdict_is_json() -> None:
    stored = judge(BUDGET, quality=measured(roc_auc=nan), cost={}, champion=champion(0, -1, 1)).to_dict()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert set(stored) == {"passed", "reasons", "against", "limits"}


def test_of_20_violators_of_each_kind_all_are_refused_and_20_good_ones_pass() -> None:
    random = np.random.default_rng(0)
    for limit in BUDGET.limits:
        for share in random.uniform(0.001, 0.5, size=20):
            wrong = limit.bound * (1 - share) if limit.sense == ">=" else limit.bound * (1 + share)
            right = limit.bound * (1 + share / 3) if limit.sense == ">=" else limit.bound * (1 - share)
            for value, passes in ((wrong, False), (right, True)):
                in_quality = limit.metric in measured().metrics()
                q = measured(**({limit.metric: value} if in_quality else {}))
                cost = COST if in_quality else COST | {limit.metric: value}
                assert judge(BUDGET, quality=q, cost=cost).passed is passes


def test_without_a_true_difference_few_weekly_challengers_are_promoted() -> None:
    random, promoted, weeks = np.random.default_rng(1), 0, 400
    for week in range(weeks):
        truth = random.beta(2, 6, size=1_500)
        y = random.random(1_500) < truth
        first, second = (np.clip(truth + random.normal(0, 0.05, size=1_500), 0.01, 0.99) for _ in range(2))
        difference = paired_difference(
            row_log_losses(y, second) - row_log_losses(y, first), np.arange(1_500) // 10, resamples=500, seed=week
        )
        compared = ChampionOnSameRows(1, timedelta(days=7), MONTH, quality(y, first), difference)
        promoted += judge(Budget(), quality=quality(y, second), cost={}, champion=compared).passed
    assert promoted / weeks <= 0.05
