"""The quality figures agree with their definitions and with scikit-learn's."""

from __future__ import annotations

from itertools import product
from math import isnan, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import quality as q

RANDOM = np.random.default_rng(7)
Y = (RANDOM.random(3_000) < 0.25).astype(np.int8)
P = np.clip(np.round(0.2 * Y + RANDOM.beta(2, 5, size=3_000), 2), 0, 1)


def test_roc_auc_equals_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    assert q.roc_auc(Y, P) == pytest.approx(roc_auc_score(Y, P), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=30))
def test_roc_auc_is_the_chance_that_a_positive_scores_higher(rows: list[tuple[int, float]]) -> None:
    pairs = [(a, b) for (ya, a), (yb, b) in product(rows, rows) if ya == 1 and yb == 0]
    found = q.roc_auc([y for y, _ in rows], [p for _, p in rows])
    if pairs:
        assert found == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))
    else:
        assert isnan(found)


def test_the_delong_interval_covers_the_true_area_about_95_times_in_100() -> None:
    from math import erf

    truth = 0.5 * (1 + erf(1 / 2))  # two normals one apart: Phi(1 / sqrt 2)
    covered = 0
    for _ in range(400):
        y = np.r_[np.zeros(150), np.ones(50)]
        x = RANDOM.normal(size=200) + y
        low, high = q.roc_auc_interval(y, 1 / (1 + np.exp(-x)))
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_delong_interval_equals_the_definition_by_pairs() -> None:
    y, p = Y[:200], P[:200]
    wins = (p[y == 1][:, None] > p[y == 0]) + (p[y == 1][:, None] == p[y == 0]) / 2
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / y.sum() + wins.mean(axis=0).var(ddof=1) / (1 - y).sum())
    area, half = wins.mean(), 1.959963984540054 * error / (wins.mean() * (1 - wins.mean()))
    expected = [1 / (1 + np.exp(-(log(area / (1 - area)) + sign * half))) for sign in (-1, 1)]
    assert q.roc_auc_interval(y, p) == pytest.approx(tuple(expected))


def test_a_perfect_separation_has_an_interval_of_one_point() -> None:
    assert q.roc_auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == (1.0, 1.0)


def test_log_loss_and_brier_equal_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    clipped = np.clip(P, q.CLIP, 1 - q.CLIP)
    assert q.log_loss(Y, P) == pytest.approx(log_loss(Y, clipped))
    assert q.brier(Y, P) == pytest.approx(brier_score_loss(Y, P))


def test_a_certain_wrong_score_costs_the_clipped_loss() -> None:
    assert q.log_loss([1], [0.0]) == pytest.approx(-log(q.CLIP))


def test_the_calibration_error_of_constant_scores_is_their_distance_from_the_rate() -> None:
    assert q.calibration_error([1, 0, 0, 0], [0.4] * 4) == pytest.approx(0.15)


def test_the_calibration_error_of_calibrated_scores_is_small() -> None:
    p = RANDOM.random(50_000)
    assert q.calibration_error(RANDOM.random(50_000) < p, p) < 0.01


def test_the_calibration_error_does_not_depend_on_row_order() -> None:
    order = RANDOM.permutation(len(Y))
    assert q.calibration_error(Y[order], P[order]) == pytest.approx(q.calibration_error(Y, P))


def test_quality_holds_the_single_figures() -> None:
    found = q.quality(Y, P)
    assert found.metrics() == {
        "accuracy": pytest.approx(((P >= 0.5) == (Y == 1)).mean()),
        "roc_auc": pytest.approx(q.roc_auc(Y, P)),
        "log_loss": pytest.approx(q.log_loss(Y, P)),
        "brier": pytest.approx(q.brier(Y, P)),
        "calibration_error": pytest.approx(q.calibration_error(Y, P)),
    }
    assert (found.rows, found.positives) == (3_000, int(Y.sum()))
    assert found.roc_auc_interval == q.roc_auc_interval(Y, P)
    assert found.log_loss_interval[0] < found.log_loss < found.log_loss_interval[1]


def test_quality_of_one_class_has_a_loss_but_no_area() -> None:
    found = q.quality([0, 0, 0], [0.1, 0.2, 0.3])
    assert isnan(found.roc_auc)
    assert isnan(found.roc_auc_interval[0])
    assert found.log_loss > 0


def test_quality_of_no_rows_is_nan_throughout() -> None:
    found = q.quality([], [])
    assert found.rows == 0
    assert all(isnan(value) for value in found.metrics().values())


def test_quality_survives_json_with_nan_as_none() -> None:
    stored = q.quality([0, 0], [0.1, 0.2]).to_dict()
    assert stored["roc_auc"] is None
    assert stored["roc_auc_interval"] == [None, None]
    assert q.Quality.from_dict(stored).to_dict() == stored
    full = q.quality(Y, P)
    assert q.Quality.from_dict(full.to_dict()) == full


@pytest.mark.parametrize(
    ("y", "p", "says"),
    [
        ([0, 2], [0.1, 0.2], "0 and 1"),
        ([0, float("nan")], [0.1, 0.2], "0 and 1"),
        ([0, 1], [0.1, 1.2], "between 0 and 1"),
        ([0, 1], [0.1, float("nan")], "between 0 and 1"),
        ([0, 1], [0.1], "one length"),
        ([[0, 1]], [[0.1, 0.2]], "one length"),
    ],
)
def test_what_is_not_outcomes_and_probabilities_is_refused(y: list[float], p: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        q.quality(y, p)


def test_slices_hold_the_quality_of_their_rows_and_small_ones_are_left_out() -> None:
    carrier = np.where(np.arange(3_000) < 2_000, "AA", "UA").astype(object)
    carrier[-50:], carrier[-250:-50] = "small", None
    found = q.slice_quality(Y, P, {"carrier": carrier}, min_rows=100)
    assert [(one.column, one.value, one.quality.rows) for one in found] == [
        ("carrier", "(missing)", 200),
        ("carrier", "AA", 2_000),
        ("carrier", "UA", 750),
    ]
    assert found[1].quality == q.quality(Y[:2_000], P[:2_000])


def test_the_paired_interval_holds_the_mean_and_is_the_same_for_a_seed() -> None:
    values = RANDOM.normal(0.1, 1, size=2_000)
    first = q.paired_difference(values, seed=3)
    assert first == q.paired_difference(values, seed=3)
    assert first.low < first.mean < first.high
    half = 1.96 * values.std() / np.sqrt(2_000)
    assert first.high - first.low == pytest.approx(2 * half, rel=0.1)


def test_rows_that_move_together_widen_the_paired_interval() -> None:
    hours = np.repeat(np.arange(100), 50)
    values = np.repeat(RANDOM.normal(size=100), 50)
    single, grouped = q.paired_difference(values), q.paired_difference(values, hours)
    assert grouped.high - grouped.low > 5 * (single.high - single.low)
    assert (grouped.rows, grouped.groups) == (5_000, 100)


def test_without_difference_the_interval_excludes_zero_about_5_times_in_100() -> None:
    excluded = 0
    for seed in range(300):
        found = q.paired_difference(RANDOM.standard_t(4, size=400), resamples=400, seed=seed)
        excluded += not found.low <= 0 <= found.high
    assert excluded / 300 <= 0.09


def test_no_rows_have_no_difference() -> None:
    assert isnan(q.paired_difference([]).mean)


CODES = RANDOM.integers(0, 4, size=800)
SOFT = RANDOM.dirichlet([1, 1, 1, 1], size=800) * 0.5 + np.eye(4)[CODES] * 0.3
SOFT /= SOFT.sum(axis=1, keepdims=True)


def test_the_figures_of_classes_equal_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

    found = q.quality(CODES, SOFT)
    assert found.log_loss == pytest.approx(log_loss(CODES, SOFT, labels=range(4)))
    assert found.accuracy == accuracy_score(CODES, SOFT.argmax(axis=1))
    assert found.roc_auc == pytest.approx(roc_auc_score(CODES, SOFT, multi_class="ovr"))
    assert found.brier == pytest.approx(brier_score_loss(CODES, SOFT, labels=range(4), scale_by_half=False))


def test_of_classes_the_most_probable_is_calibrated_against_what_happened() -> None:
    right = (SOFT.argmax(axis=1) == CODES).astype(int)
    assert q.quality(CODES, SOFT).calibration_error == q.calibration_error(right, SOFT.max(axis=1))


def test_a_class_that_never_happened_is_left_out_of_the_area() -> None:
    rows = CODES < 3
    areas = [q.roc_auc(CODES[rows] == one, SOFT[rows, one]) for one in range(3)]
    assert q.quality(CODES[rows], SOFT[rows]).roc_auc == pytest.approx(np.mean(areas))


@pytest.mark.parametrize(
    ("y", "p", "why"),
    [
        ([0, 4], [[0.25] * 4] * 2, "positions of 4 classes"),
        ([0, 0.5], [[0.25] * 4] * 2, "positions of 4 classes"),
        ([0], [[0.5, 0.2, 0.2]], "add up to 1"),
        ([0], [[np.nan, 0.5, 0.5]], "none missing"),
        ([0, 1], [[0.5, 0.25, 0.25]], "one length"),
    ],
)
def test_what_is_not_classes_and_their_probabilities_is_refused(y: list[float], p: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        q.quality(y, p)


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert q.share_interval(98, 100) == pytest.approx((0.93, 0.9945), abs=5e-4)
    assert q.share_interval(10, 10)[1] == pytest.approx(1.0)
    assert all(map(isnan, q.share_interval(0, 0)))
