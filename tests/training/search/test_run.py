"""A search finds better parameters than the declared ones, looks at the past only, and survives what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from millrace import Candidate, Integer, ModelInput
from millrace.errors import TrainingError
from training.search import Found

Find = Callable[..., Found]


def states(found: Found) -> list[str]:
    """What came of each trial."""
    return [one.state for one in found.trials]


def test_the_declared_parameters_come_first_and_better_ones_are_found(searched: Found) -> None:
    assert searched.trials[0].params == {"slope": 0.05}
    assert 1 < searched.params["slope"] < 4  # the rows were drawn with 2
    assert searched.log_loss < searched.trials[0].log_loss - 0.1
    assert searched.log_loss == min(one.log_loss for one in searched.trials if one.state == "complete")
    assert (len(searched.trials), searched.stopped) == (16, "16 trials were done")


def test_a_hopeless_trial_is_not_fitted_on_every_fold(searched: Found) -> None:
    pruned = [one for one in searched.trials if one.state == "pruned"]
    assert pruned
    for one in pruned:
        assert 1 <= len(one.losses) < 3
        assert f"worse than the median after {len(one.losses)} of 3 folds" in one.reason
        assert isnan(one.log_loss)
    assert states(searched)[:5] == ["complete"] * 5


def test_no_row_is_scored_that_precedes_a_row_fitted_on(find: Find, slope: Any) -> None:
    seen = []
    build = Candidate("curve", lambda inputs, s: slope(s, seen.append), search={"s": (0.5, 1.0, 2.0)})
    find(build)
    models = {id(model): model for model in seen}.values()
    assert len(models) == 3 * 3  # three sets on three folds
    for model in models:
        assert model.fitted.max() + 2 < model.scored.min()  # labels were known two hours later


def test_the_same_seed_finds_the_same_and_another_tries_others(
    candidate: Candidate, find: Find, searched: Found
) -> None:
    again = find(candidate, 16)
    assert [(one.params, one.losses) for one in again.trials] == [(one.params, one.losses) for one in searched.trials]
    other = find(candidate, 2, seed=1)
    assert other.trials[1].params != searched.trials[1].params


def test_a_finished_search_is_read_and_not_run_again(find: Find, slope: Any, candidate: Candidate) -> None:
    fits: list[Any] = []
    counted = Candidate("curve", lambda inputs, slope_: slope(slope_, fits.append), search={"slope_": (1.0, 2.0, 3.0)})
    first = find(counted, 2)
    count = len(fits)
    assert find(counted, 2) == first
    assert len(fits) == count > 0


def test_more_trials_go_on_from_those_that_were_done(find: Find, candidate: Candidate) -> None:
    first, more = find(candidate, 3), find(candidate, 6)
    assert more.trials[:3] == first.trials
    assert len(more.trials) == 6


def test_without_resume_it_starts_anew(find: Find, slope: Any) -> None:
    fits: list[Any] = []
    counted = Candidate("curve", lambda inputs, slope_: slope(slope_, fits.append), search={"slope_": (1.0, 2.0, 3.0)})
    find(counted, 2)
    count = len(fits)
    find(counted, 2, resume=False)
    assert len(fits) == 2 * count


@pytest.mark.parametrize("change", ["data", "labels", "seed", "folds"])
def test_what_changes_a_loss_begins_a_study_of_its_own(
    find: Find, candidate: Candidate, rows: dict[str, NDArray[Any]], change: str
) -> None:
    find(candidate, 3)
    given = {
        "data": {"X": rows["X"] + np.float32(0.5)},
        "labels": {"y": np.r_[rows["y"][:-1], 1 - rows["y"][-1:]].astype(np.int8)},
        "seed": {"seed": 1},
        "folds": {"folds": 2},
    }
    assert len(find(candidate, 1, **given[change]).trials) == 1


def test_an_impossible_value_fails_its_trials_and_others_win(find: Find) -> None:
    def build(inputs: Sequence[ModelInput], C: float) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=C)

    found = find(Candidate("line", build, search={"C": (-1, 1.0, 0.1)}))
    assert states(found)[0] == "failed"
    assert "'C' parameter of LogisticRegression must be" in found.trials[0].reason
    assert found.params["C"] > 0
    assert found.stopped == "all 3 combinations were tried"


def test_when_every_trial_fails_the_candidate_and_the_first_reason_are_told(find: Find) -> None:
    def build(inputs: Sequence[ModelInput], depth: int) -> Any:
        raise KeyError(f"depth {depth}")

    with pytest.raises(TrainingError, match=r"'deep' failed, the first with: .*KeyError: 'depth 1'\.") as caught:
        find(Candidate("deep", build, search={"depth": (1, 2, 3)}))
    assert "Trials: 3; the first was of {'depth': 1}" in caught.value.looked


def test_a_search_of_which_every_trial_failed_is_tried_again(find: Find, slope: Any) -> None:
    lacks = ["a library"]

    def build(inputs: Sequence[ModelInput], s: float) -> Any:
        if lacks:
            raise ImportError(lacks[0])
        return slope(s)

    curve = Candidate("curve", build, search={"s": (1.0, 2.0)})
    with pytest.raises(TrainingError, match="ImportError: a library"):
        find(curve)
    lacks.clear()
    assert states(find(curve)) == ["complete", "complete"]


def test_probabilities_that_are_no_numbers_fail_their_trial(find: Find, slope: Any) -> None:
    found = find(Candidate("curve", lambda inputs, s: slope(s), search={"s": (float("nan"), 1.0)}))
    assert states(found) == ["failed", "complete"]
    assert "p must hold probabilities" in found.trials[0].reason


@pytest.mark.parametrize(
    ("space", "trials", "why"),
    [
        ({"s": (1.0, 2.0)}, 0, "no trials were asked for"),
        ({}, 5, "one combination only"),
        ({"s": (1.0,)}, 5, "one combination only"),
    ],
)
def test_where_there_is_nothing_to_search_nothing_is_fitted(
    find: Find, tmp_path: Path, space: dict[str, Any], trials: int, why: str
) -> None:
    def build(inputs: Sequence[ModelInput], **params: Any) -> Any:
        raise AssertionError("it was built")

    found = find(Candidate("curve", build, search=space), trials, storage=f"sqlite:///{tmp_path}/other.db")
    assert (found.params, found.trials) == ({name: values[0] for name, values in space.items()}, ())
    assert why in found.stopped
    assert not (tmp_path / "other.db").exists()


def test_a_small_space_is_tried_whole_and_each_combination_once(find: Find, slope: Any) -> None:
    space = {"s": (1.0, 2.0, 3.0), "other": Integer(1, 2)}
    found = find(Candidate("curve", lambda inputs, s, other: slope(s), search=space), 50)
    tried = [tuple(one.params.items()) for one in found.trials]
    assert len(tried) == len(set(tried)) == 6
    assert found.stopped == "all 6 combinations were tried"


def test_no_combination_is_fitted_twice_when_there_are_more_than_trials(find: Find, slope: Any) -> None:
    space = {"s": tuple(float(value) for value in range(1, 10))}
    found = find(Candidate("curve", lambda inputs, s: slope(s), search=space), 8)
    assert len({one.params["s"] for one in found.trials}) == 8


def test_progress_is_told_from_the_start_with_the_best_so_far(find: Find, candidate: Candidate) -> None:
    heard: list[tuple[int, int, float | None]] = []
    find(candidate, 2)
    found = find(candidate, 4, progress=lambda *told: heard.append(told))
    assert [(done, total) for done, total, _ in heard] == [(2, 4), (3, 4), (4, 4)]
    assert heard[-1][2] == found.log_loss


def test_with_classes_the_loss_is_that_of_all_of_them(find: Find, rows: dict[str, NDArray[Any]]) -> None:
    class Shares:
        def __init__(self, weight: float) -> None:
            self.weight = weight

        def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Shares:
            shares = np.bincount(y, minlength=3) / len(y)
            self.shares = self.weight * shares + (1 - self.weight) * np.array([0.98, 0.01, 0.01])
            return self

        def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
            return np.tile(self.shares, (len(X), 1))

    y = (np.arange(600) % 3).astype(np.int8)
    candidate = Candidate("shares", lambda inputs, weight: Shares(weight), search={"weight": (0.0, 0.5, 1.0)})
    found = find(candidate, y=y, classes=3)
    assert found.params == {"weight": 1.0}
    assert found.log_loss == pytest.approx(np.log(3), abs=1e-3)


def test_rows_that_do_not_suffice_are_refused_before_anything_is_fitted(
    find: Find, candidate: Candidate, rows: dict[str, NDArray[Any]]
) -> None:
    with pytest.raises(TrainingError, match="show one outcome only"):
        find(candidate, y=np.r_[rows["y"][:540], np.zeros(60)].astype(np.int8))


def test_optuna_is_quiet_and_its_log_is_left_as_it_was(
    find: Find, candidate: Candidate, capfd: pytest.CaptureFixture[str]
) -> None:
    from optuna import logging

    before = logging.get_verbosity()
    find(candidate, 3)
    assert logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
