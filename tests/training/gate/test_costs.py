"""What counts as cheaper and as dearer, beyond the noise of measuring."""

from __future__ import annotations

import pytest

from training.gate.costs import dearer, gains, over

BASE = {"p50_ms": 0.9, "p99_ms": 1.5, "memory_mb": 60.0}


def test_half_the_latency_is_cheaper_in_words() -> None:
    ours = {"p50_ms": 0.4, "p99_ms": 0.7, "memory_mb": 60.0}
    assert gains(ours, BASE, ()) == ("p99 latency of one row 0.7 against 1.5 ms",)


def test_two_thirds_of_the_memory_are_cheaper_in_words() -> None:
    assert gains(BASE | {"memory_mb": 40.0}, BASE, ()) == ("Memory added by the model 40 against 60 MB",)


@pytest.mark.parametrize(
    "ours",
    [
        BASE,
        BASE | {"memory_mb": 41.0},
        BASE | {"p50_ms": 0.4, "p99_ms": 0.8},
        BASE | {"p99_ms": 0.5},  # the median does not bear it out
        {"p99_ms": 0.5, "memory_mb": 60.0},  # no median
        {"p50_ms": 0.4, "p99_ms": 0.5, "memory_mb": 70.0},  # but dearer in memory
        {"p50_ms": 1.4, "p99_ms": 2.5, "memory_mb": 30.0},  # but dearer in latency
        {"p50_ms": 0.4, "p99_ms": 0.5},  # memory is known of one only
        {"p50_ms": 0.4, "p99_ms": float("nan"), "memory_mb": 30.0},
        {},
    ],
)
def test_what_is_not_clearly_cheaper_is_not(ours: dict[str, float]) -> None:
    assert gains(ours, BASE, ()) == ()


def test_figures_that_are_small_anyway_are_noise() -> None:
    assert gains({"p50_ms": 0.015, "p99_ms": 0.02}, {"p50_ms": 0.05, "p99_ms": 0.07}, ()) == ()
    assert gains({"memory_mb": 1.0}, {"memory_mb": 2.9}, ()) == ()


def test_what_was_measured_of_neither_is_left_out() -> None:
    assert gains({"memory_mb": 30.0}, {"memory_mb": 60.0}, ("joules_per_1000",)) != ()


def test_what_was_measured_of_one_only_may_be_dearer() -> None:
    ours = {"memory_mb": 30.0, "joules_per_1000": 1.0}
    assert gains(ours, {"memory_mb": 60.0}, ("joules_per_1000",)) == ()


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "is_dearer"),
    [
        ("memory_mb", 67.0, 60.0, True),
        ("memory_mb", 65.0, 60.0, False),
        ("memory_mb", 3.0, 1.5, False),
        ("p99_ms", 0.09, 0.02, False),
        ("p99_ms", 3.1, 2.0, True),
        ("joules_per_1000", 1.4, 1.0, True),
    ],
)
def test_dearer_is_above_by_more_than_noise(metric: str, ours: float, theirs: float, is_dearer: bool) -> None:
    assert dearer(metric, ours, theirs) is is_dearer


def test_over_a_bound_is_above_it_by_more_than_noise() -> None:
    assert over("memory_mb", 2.3, 2.0)
    assert not over("memory_mb", 2.1, 2.0)
