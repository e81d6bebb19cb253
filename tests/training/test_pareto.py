"""The Pareto front is what nothing dominates, and the picture shows every model that was measured."""

from __future__ import annotations

import pytest

from millrace.budget import Budget, at_most
from training.pareto import Point, front, picture


def point(name: str, log_loss: float, p99_ms: float, memory_mb: float, **more: bool) -> Point:
    return Point(name, log_loss, 0.9, {"p99_ms": p99_ms, "memory_mb": memory_mb}, **{"passed": True, **more})


def test_a_model_that_another_beats_in_one_figure_and_equals_in_the_others_is_not_on_the_front() -> None:
    points = [point("good", 0.3, 1, 10), point("slower", 0.3, 2, 10), point("small", 0.5, 1, 5)]
    assert front(points) == ["good", "small"]


def test_models_of_equal_figures_are_both_on_the_front() -> None:
    assert front([point("a", 0.3, 1, 10), point("b", 0.3, 1, 10)]) == ["a", "b"]


def test_a_model_without_a_measured_cost_is_not_on_the_front() -> None:
    assert front([Point("x", 0.1, 0.9, {}, passed=False), point("y", 0.3, 1, 10)]) == ["y"]


@pytest.mark.parametrize("points", [[], [Point("x", 0.1, 0.9, {}, passed=False)]])
def test_nothing_measured_gives_a_picture_all_the_same(points: list[Point]) -> None:
    assert picture(points, Budget(), title="none").startswith(b"\x89PNG")


def test_one_more_model_changes_the_picture() -> None:
    budget = Budget(at_most(p99_ms=3))
    one = [point("good", 0.3, 1, 10, champion=True)]
    more = [*one, point("hollow", 0.4, 4, 5, passed=False)]
    assert picture(one, budget, title="t") != picture(more, budget, title="t")
