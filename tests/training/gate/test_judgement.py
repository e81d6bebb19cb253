"""A verdict follows from measurements alone, says why in words, and holds what it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from features.parity import Mismatch, Parity
from millrace import Budget
from millrace.quality import Quality
from training.gate import (
    CalibrationTest,
    ChampionOnSameRows,
    Damage,
    RobustnessTest,
    ScoreParity,
    SliceComparison,
    SliceDifference,
    judge,
)

Measured = Callable[..., Quality]
SAME = Parity(rows=300, values=9_000, mismatches=0, first=(), seconds=0.5)


@pytest.mark.parametrize(("loss", "passes"), [(0.46, True), (0.45, False), (0.44, False)])
def test_the_baseline_must_have_the_higher_loss(measured: Measured, loss: float, passes: bool) -> None:
    verdict = judge(Budget(), quality=measured(), cost={}, baseline=measured(log_loss=loss))
    assert verdict.passed is passes
    assert ("It beats the baseline" in verdict.reasons[0]) is passes


def test_features_that_are_the_same_online_are_told_after_the_budget(
    budget: Budget, measured: Measured, cost: dict[str, float]
) -> None:
    verdict = judge(budget, quality=measured(), cost=cost, parity=SAME, baseline=measured(log_loss=0.5))
    assert verdict.passed
    assert verdict.reasons[len(verdict.limits)] == str(SAME)


def test_one_feature_value_that_differs_online_refuses_whatever_the_model_is_worth(
    budget: Budget, measured: Measured, cost: dict[str, float], champion: Callable[..., ChampionOnSameRows]
) -> None:
    told = Mismatch("route", "delay", {"origin": "JFK"}, datetime(2013, 4, 1, tzinfo=UTC), 1.5, float("nan"))
    differs = Parity(rows=300, values=9_000, mismatches=1, first=(told,), seconds=0.5)
    better = champion(-0.01, -0.015, -0.004)
    verdict = judge(budget, quality=measured(), cost=cost, parity=differs, champion=better)
    assert not verdict.passed
    assert verdict.against == (str(differs),)
    assert "1 of the 9,000 feature values of 300 training rows differ" in verdict.against[0]
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["passed"] is False


def test_beating_the_champion_does_not_excuse_a_missed_limit(
    budget: Budget, measured: Measured, cost: dict[str, float], champion: Callable[..., ChampionOnSameRows]
) -> None:
    better = champion(-0.01, -0.015, -0.004)
    assert not judge(budget, quality=measured(), cost=cost | {"memory_mb": 500.0}, champion=better).passed


def test_each_check_that_fails_refuses_alone_with_its_own_reason(measured: Measured) -> None:
    worse = SliceDifference("carrier", "HA", 300, 90, 0.4, 0.3, 0.5, 0.0001, worse=True)
    evidence = {
        "scores": ScoreParity(1_000, 1, 2e-5, 3, 0.5, 0.50002),
        "slices": SliceComparison(0.05, (worse,), 2),
        "calibration": CalibrationTest(5_000, 0.2, 0.02),
        "robustness": RobustnessTest(100, 0.4, 0.5, (Damage("wind missing", 0.9, 0.55),)),
    }
    for name, found in evidence.items():
        verdict = judge(Budget(), quality=measured(), cost={}, parity=SAME, **{name: found})  # type: ignore[arg-type]  # of its kind
        assert not verdict.passed
        assert len(verdict.against) == 1
        assert [one.name for one in verdict.checks if not one.passed] == [name]
        assert verdict.check(name) is not None


def test_what_was_not_looked_at_is_not_in_the_verdict(measured: Measured) -> None:
    verdict = judge(Budget(), quality=measured(), cost={})
    assert verdict.passed
    assert verdict.reasons == verdict.checks == verdict.limits == ()
    assert verdict.check("champion") is None


def test_the_order_of_the_reasons_is_against_first_then_budget_and_checks(
    budget: Budget, measured: Measured, cost: dict[str, float]
) -> None:
    verdict = judge(
        budget,
        quality=measured(),
        cost=cost,
        parity=SAME,
        scores=ScoreParity(1_000, 0, 1e-8, 3, 0.5, 0.5),
        baseline=measured(log_loss=0.44),
        calibration=CalibrationTest(5_000, 0.01, 0.02),
    )
    assert verdict.reasons[0].startswith("It does not beat the baseline")
    assert verdict.reasons[1].startswith("ROC AUC is")
    assert [one.name for one in verdict.checks] == ["parity", "scores", "baseline", "calibration"]
