"""Folds look at the past only, as the gate does, and rows that do not suffice are refused with what is lacking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from millrace.errors import TrainingError
from training.folds import Fold, rolling_origin

HOUR = np.timedelta64(3_600_000_000, "us")
TIMES = np.datetime64("2013-01-01", "us") + np.arange(2_000) * HOUR
Y = (np.random.default_rng(0).random(2_000) < 0.3).astype(np.int8)


def rows_of(fold: Fold, what: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The values of the fit rows and of the watched ones."""
    return what[fold.fit], what[fold.watch]


@pytest.mark.parametrize("seed", range(5))
def test_no_watched_row_precedes_a_fit_row_and_every_fit_label_was_known_before_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.sort(TIMES[random.integers(0, 2_000, size=2_000)])
    known = times + random.integers(0, 400, size=2_000) * HOUR
    for fold in rolling_origin(times, known, Y, folds=4, share=0.15):
        fit, watch = rows_of(fold, times)
        assert fit.max() <= fold.cut < watch.min()
        assert known[fold.fit].max() <= fold.cut


def test_the_watched_stretches_follow_each_other_up_to_the_last_row() -> None:
    watched = [fold.watch for fold in rolling_origin(TIMES, TIMES, Y)]
    assert watched == [slice(1_400, 1_600), slice(1_600, 1_800), slice(1_800, 2_000)]


def test_every_label_that_was_known_is_fitted_on() -> None:
    known = TIMES + 5 * HOUR
    first = rolling_origin(TIMES, known, Y)[0]
    assert first.fit == slice(0, 1_400 - 5)


def test_a_late_label_is_left_out_alone() -> None:
    known = TIMES.copy()
    known[7] += 1_700 * HOUR
    first, last = rolling_origin(TIMES, known, Y, folds=2)
    assert isinstance(first.fit, np.ndarray)
    assert sorted(set(range(1_600)) - set(first.fit.tolist())) == [7]
    assert last.fit == slice(0, 1_800)


def test_a_label_known_before_its_own_event_does_not_bring_a_later_row_in() -> None:
    known = TIMES - 100 * HOUR
    assert rolling_origin(TIMES, known, Y)[0].fit == slice(0, 1_400)


def test_rows_of_one_moment_are_on_one_side() -> None:
    times = np.repeat(TIMES[::50], 50)[30:]
    for fold in rolling_origin(times, times, Y[30:]):
        fit, watch = rows_of(fold, times)
        assert not set(fit) & set(watch)


def test_the_fit_rows_of_a_fold_are_a_view_where_they_can_be() -> None:
    matrix = np.zeros((2_000, 3), dtype=np.float32)
    assert all(np.shares_memory(matrix[fold.fit], matrix) for fold in rolling_origin(TIMES, TIMES, Y))


def test_labels_that_come_too_late_are_told() -> None:
    with pytest.raises(TrainingError, match=r"stretch 1 of 3 in time, only 0 rows had a label by its beginning, 100"):
        rolling_origin(TIMES, TIMES + 5_000 * HOUR, Y)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_hardly_any_rows_are_refused(rows: int) -> None:
    with pytest.raises(TrainingError, match=f"too few rows to search parameters on: {rows}"):
        rolling_origin(TIMES[:rows], TIMES[:rows], Y[:rows])


@pytest.mark.parametrize(
    ("constant", "says"),
    [(slice(0, 1_500), "known by its beginning show 1 of 2"), (slice(1_700, 2_000), "200 rows show one outcome only")],
)
def test_one_outcome_only_is_refused_naming_the_stretch(constant: slice, says: str) -> None:
    y = Y.copy()
    y[constant] = 0
    with pytest.raises(TrainingError, match=says):
        rolling_origin(TIMES, TIMES, y)


def test_with_classes_every_one_must_be_fitted_on() -> None:
    y = np.arange(2_000, dtype=np.int64).astype(np.int8) % 4
    assert len(rolling_origin(TIMES, TIMES, y, classes=4)) == 3
    y[:1_500][y[:1_500] == 2] = 0
    with pytest.raises(TrainingError, match=r"stretch 1 of 3 in time, the 1400 rows .* show 3 of 4 outcomes"):
        rolling_origin(TIMES, TIMES, y, classes=4)


def test_rows_that_all_share_one_moment_are_refused() -> None:
    times = np.repeat(TIMES[:1], 2_000)
    with pytest.raises(TrainingError, match="too many share one moment"):
        rolling_origin(times, times, Y)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"known": TIMES[1:]}, "one length"),
        ({"times": TIMES[::-1]}, "ascending"),
        ({"known": np.where(np.arange(2_000) == 9, np.datetime64("NaT"), TIMES)}, "missing moments"),
        ({"folds": 0}, "nothing to fit on, or are none"),
        ({"folds": 10}, "nothing to fit on"),
        ({"share": -0.1}, "nothing to fit on"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"times": TIMES, "known": TIMES, "y": Y} | change
    with pytest.raises(ValueError, match=says):
        rolling_origin(**given)
