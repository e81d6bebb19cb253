"""A model's quality, its cost and a champion beside it, as the tests of the gate start from them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from millrace import Budget, at_least, at_most
from millrace.quality import Difference, Quality
from training.gate import ChampionOnSameRows

WEEK, MONTH = timedelta(days=7), timedelta(days=28)


@pytest.fixture
def budget() -> Budget:
    """Two limits on quality, three on cost."""
    return Budget(at_least(roc_auc=0.7), at_most(log_loss=0.5, p99_ms=10, memory_mb=100, bundle_mb=20))


@pytest.fixture
def cost() -> dict[str, float]:
    """A cost within that budget."""
    return {"p50_ms": 0.3, "p99_ms": 0.5, "memory_mb": 8.0, "bundle_mb": 0.4}


@pytest.fixture
def measured() -> Callable[..., Quality]:
    """A quality within that budget, with some of its figures changed."""

    def make(**changed: Any) -> Quality:
        base: dict[str, Any] = {
            "rows": 5_000, "positives": 1_000, "roc_auc": 0.74, "roc_auc_interval": (0.72, 0.76), "log_loss": 0.45,
            "log_loss_interval": (0.44, 0.46), "brier": 0.14, "calibration_error": 0.01, "accuracy": 0.81,
            "accuracy_interval": (0.80, 0.82),
        }  # fmt: skip
        return Quality(**base | changed)

    return make


@pytest.fixture
def champion(measured: Callable[..., Quality]) -> Callable[..., ChampionOnSameRows]:
    """Version 3, a week old unless told otherwise, with this mean difference and interval."""

    def make(
        mean: float, low: float, high: float, *, age: timedelta = WEEK, loss: float = 0.45, **changed: Any
    ) -> ChampionOnSameRows:
        difference = Difference(mean, low, high, 5_000, 168)
        return ChampionOnSameRows(
            3, age, MONTH, **{"quality": measured(log_loss=loss), "difference": difference} | changed
        )

    return make
