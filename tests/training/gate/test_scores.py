"""Scores along the path that serves are those that the model is judged by, value by value."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from training.gate.scores import check_scores, compare_scores

OURS = np.linspace(0.1, 0.9, 50)


def test_scores_that_are_the_same_to_five_places_hold() -> None:
    found = compare_scores(OURS, [[score + 9e-6] for score in OURS])
    assert (found.rows, found.mismatches, found.holds) == (50, 0, True)
    assert found.difference == pytest.approx(9e-6)
    assert check_scores(found).reason.startswith("Along the path that serves, 50 hold-out rows are given the scores")


@pytest.mark.parametrize("other", [0.2, OURS[17] + 2e-5, nan])
def test_one_score_that_differs_is_told_with_its_row(other: float) -> None:
    theirs = [[score] for score in OURS]
    theirs[17] = [other]
    check = check_scores(compare_scores(OURS, theirs))
    assert not check.passed
    assert "1 of 50 hold-out rows are given other scores" in check.reason
    assert f"row 17 of them {other:.6g} instead of {OURS[17]:.6g}, where 1e-05 may lie between" in check.reason


def test_of_classes_every_score_is_compared() -> None:
    ours = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    assert compare_scores(ours, ours.tolist()).holds
    found = compare_scores(ours, [[0.2, 0.3, 0.5], [0.16, 0.05, 0.8]])  # the best class and its score are equal
    assert (found.mismatches, found.worst, found.offline, found.online) == (1, 1, 0.1, 0.16)


def test_other_rows_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_scores(OURS, [[0.5]])
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_scores(np.empty(0), [])
