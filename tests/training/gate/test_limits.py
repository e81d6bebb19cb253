"""Every limit of a budget against its measurement, in figures and in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from millrace import Budget, at_least, at_most
from millrace.budget import BUDGET_METRICS, QUALITY_METRICS
from millrace.quality import Quality
from training.gate import judge
from training.gate.costs import NOISE
from training.gate.limits import check_limits, limit_in_words
from training.gate.words import METRIC_WORDS

Measured = Callable[..., Quality]
WORTH = {"accuracy": 0.8, "roc_auc": 0.7, "log_loss": 0.5, "brier": 0.2, "calibration_error": 0.05}
"""A bound on each metric of quality; costs are held against 10."""
GOOD = {"accuracy", "roc_auc"}
"""What is better when it is higher."""


def test_a_model_within_its_budget_keeps_every_limit_by_a_margin(
    budget: Budget, measured: Measured, cost: dict[str, float]
) -> None:
    limits = check_limits(budget, measured(), cost)
    assert [(one.metric, one.measured, one.passed) for one in limits] == [
        ("roc_auc", 0.74, True),
        ("log_loss", 0.45, True),
        ("p99_ms", 0.5, True),
        ("memory_mb", 8.0, True),
        ("bundle_mb", 0.4, True),
    ]
    assert [one.margin for one in limits] == pytest.approx([0.04, 0.05, 9.5, 92, 19.6])


def test_quality_is_told_with_its_interval_and_cost_without(
    budget: Budget, measured: Measured, cost: dict[str, float]
) -> None:
    limits = check_limits(budget, measured(), cost)
    assert [one.interval for one in limits] == [(0.72, 0.76), (0.44, 0.46), None, None, None]
    assert limit_in_words(limits[0]) == "ROC AUC is 0.74 (95 % interval 0.72 to 0.76), at least 0.7 as wanted."
    assert limit_in_words(limits[2]) == "p99 latency of one row is 0.5 ms, at most 10 ms as wanted."


def test_the_measurement_decides_not_its_interval(measured: Measured) -> None:
    wide = measured(roc_auc=0.71, roc_auc_interval=(0.62, 0.79))
    assert judge(Budget(at_least(roc_auc=0.7)), quality=wide, cost={}).passed
    short = measured(roc_auc=0.69, roc_auc_interval=(0.62, 0.79))
    assert not judge(Budget(at_least(roc_auc=0.7)), quality=short, cost={}).passed


@pytest.mark.parametrize(
    ("quality_changed", "cost_changed", "says"),
    [
        (
            {"roc_auc": 0.66, "roc_auc_interval": (0.64, 0.68)},
            {},
            "ROC AUC is 0.66 (95 % interval 0.64 to 0.68) and must be at least 0.7: it misses by 0.04.",
        ),
        (
            {"log_loss": 0.52, "log_loss_interval": (nan, nan)},
            {},
            "Log loss is 0.52 and must be at most 0.5: it misses by 0.02.",
        ),
        ({}, {"p99_ms": 12.5}, "p99 latency of one row is 12.5 ms and must be at most 10 ms: it misses by 2.5 ms."),
        (
            {},
            {"memory_mb": 120.0},
            "Memory added by the model is 120 MB and must be at most 100 MB: it misses by 20 MB.",
        ),
        ({}, {"bundle_mb": 21.0}, "Size of the bundle is 21 MB and must be at most 20 MB: it misses by 1 MB."),
        ({"roc_auc": nan}, {}, "ROC AUC is unmeasured and must be at least 0.7."),
        ({}, {"memory_mb": inf}, "Memory added by the model is unmeasured and must be at most 100 MB."),
    ],
)
def test_one_missed_limit_refuses_and_is_told_first(
    budget: Budget,
    measured: Measured,
    cost: dict[str, float],
    quality_changed: dict[str, Any],
    cost_changed: dict[str, float],
    says: str,
) -> None:
    verdict = judge(budget, quality=measured(**quality_changed), cost=cost | cost_changed)
    assert not verdict.passed
    assert verdict.against == (says,)
    assert verdict.reasons[0] == says
    assert len(verdict.reasons) == 5


def test_what_was_not_measured_is_not_kept(budget: Budget, measured: Measured) -> None:
    verdict = judge(budget, quality=measured(), cost={"p99_ms": 0.5, "bundle_mb": 1.0})
    assert verdict.against == ("Memory added by the model is unmeasured and must be at most 100 MB.",)
    assert [(one.measured, one.margin) for one in verdict.limits if not one.passed] == [(None, None)]


def test_why_it_was_not_measured_is_told(measured: Measured) -> None:
    verdict = judge(
        Budget(at_most(joules_per_1000=5)),
        quality=measured(),
        cost={},
        notes={"joules_per_1000": "This machine has no meter."},
    )
    assert verdict.against == (
        "Energy of 1,000 predictions is unmeasured (This machine has no meter) and must be at most 5 J.",
    )


def test_what_weakens_a_measurement_is_told_beside_it(measured: Measured) -> None:
    told = {"p99_ms": "of 6,000 calls, since 10,000 would take too long"}
    verdict = judge(Budget(at_most(p99_ms=10)), quality=measured(), cost={"p99_ms": 0.5}, notes=told)
    assert verdict.reasons == (
        "p99 latency of one row is 0.5 ms (of 6,000 calls, since 10,000 would take too long), at most 10 ms as wanted.",
    )
    assert verdict.limits[0].note == told["p99_ms"]


@pytest.mark.parametrize("metric", ["p99_ms", "p99_ms_100"])
def test_a_99th_percentile_of_fewer_than_a_thousand_calls_keeps_no_limit(metric: str, measured: Measured) -> None:
    limit, found = Budget(at_most(**{metric: 10})), {metric: 0.5}
    assert judge(limit, quality=measured(), cost=found, calls={metric: 1_000}).passed
    few = judge(limit, quality=measured(), cost=found, calls={metric: 999})
    assert (few.passed, few.limits[0].margin) == (False, 9.5)
    assert "of fewer than 1,000 calls no 99th percentile is known" in few.against[0]
    assert "MILLRACE_MEASURE_SECONDS" in few.against[0]


def test_a_limit_that_few_calls_miss_is_missed(measured: Measured) -> None:
    limit = Budget(at_most(p99_ms=10))
    verdict = judge(limit, quality=measured(), cost={"p99_ms": 12.0}, calls={"p99_ms": 60})
    assert verdict.against == ("p99 latency of one row is 12 ms and must be at most 10 ms: it misses by 2 ms.",)


def test_an_unmeasured_limit_that_the_budget_waives_by_name_is_told_as_waived(measured: Measured) -> None:
    waived = Budget(at_most(joules_per_1000=5), waived=("joules_per_1000",))
    verdict = judge(waived, quality=measured(), cost={}, notes={"joules_per_1000": "no meter"})
    assert verdict.passed
    assert verdict.limits[0].waived
    assert verdict.reasons == (
        "Energy of 1,000 predictions is unmeasured (no meter); the budget waives its limit of at most 5 J.",
    )


def test_waiving_one_metric_does_not_excuse_another(measured: Measured) -> None:
    waived = Budget(at_most(joules_per_1000=5, cold_start_ms=500), waived=("joules_per_1000",))
    assert not judge(waived, quality=measured(), cost={}).passed


def test_a_waiver_changes_nothing_where_there_is_a_measurement(measured: Measured) -> None:
    waived = Budget(at_most(joules_per_1000=5), waived=("joules_per_1000",))
    verdict = judge(waived, quality=measured(), cost={"joules_per_1000": 6.0})
    assert verdict.against == ("Energy of 1,000 predictions is 6 J and must be at most 5 J: it misses by 1 J.",)
    assert not verdict.limits[0].waived


def test_a_bound_that_is_met_exactly_is_kept(measured: Measured, cost: dict[str, float]) -> None:
    assert judge(Budget(at_least(roc_auc=0.74), at_most(p99_ms=0.5)), quality=measured(), cost=cost).passed


def test_no_limits_are_kept_by_anything(measured: Measured) -> None:
    assert judge(Budget(), quality=measured(), cost={}).passed


def test_every_metric_that_a_budget_may_limit_has_words_and_every_cost_its_noise() -> None:
    assert set(METRIC_WORDS) == BUDGET_METRICS
    assert set(NOISE) == BUDGET_METRICS - set(QUALITY_METRICS)


@pytest.mark.parametrize("metric", sorted(BUDGET_METRICS))
def test_of_20_violators_of_each_kind_all_are_refused_and_20_good_ones_pass(metric: str, measured: Measured) -> None:
    random = np.random.default_rng(0)
    bound = WORTH.get(metric, 10.0)
    limits = Budget((at_least if metric in GOOD else at_most)(**{metric: bound}))
    for share in random.uniform(0.001, 0.25, size=20):
        for value, passes in ((bound * (1 - share), metric not in GOOD), (bound * (1 + share), metric in GOOD)):
            in_quality = metric in QUALITY_METRICS
            q = replace(measured(), **{metric: value}) if in_quality else measured()
            verdict = judge(limits, quality=q, cost={} if in_quality else {metric: value})
            assert verdict.passed is passes
            assert (verdict.limits[0].margin or 0) > 0 if passes else (verdict.limits[0].margin or 0) < 0
