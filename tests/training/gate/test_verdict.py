"""A verdict as JSON: what the command line prints, the database keeps and MLflow is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from features.parity import Parity
from millrace import Budget, at_most
from millrace.errors import GateError
from millrace.quality import Quality
from training.gate import (
    CalibrationTest,
    ChampionOnSameRows,
    Damage,
    RobustnessTest,
    ScoreParity,
    SliceComparison,
    SliceDifference,
    Verdict,
    judge,
)
from training.gate.verdict import plain


@pytest.fixture
def verdict(
    measured: Callable[..., Quality], champion: Callable[..., ChampionOnSameRows], cost: dict[str, float]
) -> Verdict:
    """Of a model of which everything was looked at, and not all was measured."""
    slice_ = SliceDifference("carrier", "HA", 300, 90, 0.1, nan, nan, 1.0, worse=False)
    return judge(
        Budget(at_most(log_loss=0.5, memory_mb=100, cold_start_ms=100, joules_per_1000=1), waived=("joules_per_1000",)),
        quality=measured(log_loss=0.4),
        cost=cost,
        parity=Parity(rows=300, values=9_000, mismatches=0, first=(), seconds=0.5),
        scores=ScoreParity(1_000, 0, 1e-8, 3, 0.5, 0.5),
        baseline=measured(),
        champion=champion(-0.01, -0.02, -0.001, cost=cost),
        slices=SliceComparison(0.05, (slice_,), 0),
        calibration=CalibrationTest(5_000, 0.02, 0.01, "champion", 0.03, (-0.02, 0.01)),
        robustness=RobustnessTest(100, 0.4, 0.5, (Damage("wind missing", nan, None, invalid=3),)),
    )


def test_a_verdict_is_json_with_the_keys_that_others_read(verdict: Verdict) -> None:
    stored = verdict.to_dict()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert set(stored) == {"passed", "reasons", "against", "limits", "checks"}
    assert stored["passed"] is False
    assert stored["limits"][1] == {
        "metric": "memory_mb", "sense": "<=", "bound": 100, "measured": 8.0, "margin": 92.0, "passed": True,
        "interval": None, "waived": False, "note": "",
    }  # fmt: skip


def test_it_holds_every_measurement_interval_and_margin(verdict: Verdict) -> None:
    checks = {one["name"]: one["figures"] for one in verdict.to_dict()["checks"]}
    assert list(checks) == ["parity", "scores", "baseline", "champion", "slices", "calibration", "robustness"]
    assert (checks["scores"]["difference"], checks["scores"]["close"]) == (1e-8, 1e-5)
    assert checks["baseline"] == {"log_loss": 0.4, "baseline": 0.45}
    assert checks["champion"]["difference"] == {
        "mean": -0.01, "low": -0.02, "high": -0.001, "rows": 5_000, "groups": 168
    }  # fmt: skip
    assert checks["champion"]["cost"]["p99_ms"] == [0.5, 0.5]
    assert checks["slices"]["margin"] == 0.05
    assert checks["calibration"]["excess"] == [-0.02, 0.01]
    assert checks["robustness"]["damages"][0]["log_loss"] is None


def test_what_json_gives_back_is_the_verdict(verdict: Verdict) -> None:
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_a_verdict_of_before_there_were_checks_is_read() -> None:
    limit = {"metric": "p99_ms", "sense": "<=", "bound": 10.0, "measured": 0.5, "margin": 9.5, "passed": True}
    found = Verdict.from_dict({"passed": True, "reasons": ["Fine."], "limits": [limit], "against": []})
    assert found.passed
    assert found.checks == ()
    assert (found.limits[0].interval, found.limits[0].waived) == (None, False)


def test_what_a_later_version_adds_is_passed_over(verdict: Verdict) -> None:
    stored = verdict.to_dict()
    stored["limits"][0]["colour"] = "red"
    stored["checks"][0]["colour"] = "red"
    assert Verdict.from_dict(stored | {"colour": "red"}) == verdict


@pytest.mark.parametrize(
    "stored",
    [{}, {"passed": True}, {"passed": True, "reasons": [], "limits": [{"metric": "p99_ms"}]},
     {"passed": True, "reasons": [], "limits": "none"}, {"passed": True, "reasons": None, "limits": []},
     {"passed": True, "reasons": [], "limits": [], "checks": [{"name": "champion"}]}],
)  # fmt: skip
def test_what_is_no_verdict_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(GateError, match="What is stored as a verdict is none"):
        Verdict.from_dict(stored)


def test_plain_data_has_no_numpy_no_nan_and_no_durations() -> None:
    found = plain({"a": np.float64(1.5), "b": (np.int64(2), nan), "c": inf, "d": timedelta(hours=1), 5: np.True_})
    assert found == {"a": 1.5, "b": [2, None], "c": None, "d": 3600.0, "5": True}
    assert json.loads(json.dumps(found)) == found
