"""A torch candidate becomes a classifier: what it is given is checked, and the same arguments give the same bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millrace import Distil, TorchCandidate
from millrace.errors import TrainingError, UseCaseError
from millrace.quality import roc_auc
from training.hardware import Hardware

Fit = Callable[..., Any]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, training.network, training.hardware; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    first, again, other = (fit(mlp, seed=seed).predict_proba(rows[0]).tobytes() for seed in (1, 1, 2))
    assert first == again != other


def test_the_callers_random_numbers_and_threads_are_left_as_they_were(fit: Fit, mlp: TorchCandidate) -> None:
    import torch

    state, numbers, threads = torch.get_rng_state(), np.random.get_state()[1].tobytes(), torch.get_num_threads()
    fit(mlp, hardware=Hardware(threads=threads + 1), epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tobytes() == numbers
    assert torch.get_num_threads() == threads


def test_it_learns_rows_with_missing_values(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    X, y = rows
    scores = fit(mlp, epochs=12).predict_proba(X)
    missing = np.isnan(X[:, 0])
    assert roc_auc(y[missing], scores[missing, 1]) > 0.8
    np.testing.assert_allclose(scores.sum(axis=1), 1)


def test_missing_values_reach_the_module_as_nan(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    module = fit(mlp, epochs=1).module
    assert module.seen_rows == 990
    np.testing.assert_allclose(module.mean.numpy(), np.nanmean(rows[0][:990, :2], axis=0), rtol=1e-4)


def test_three_classes_have_three_probabilities(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    X, _ = rows
    y = X[:, 2].astype(np.int8)
    scores = fit(mlp, y=y, classes=3, params={"classes": 3}, epochs=12).predict_proba(X)
    assert scores.shape == (len(X), 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert (scores.argmax(axis=1) == y).mean() > 0.95


def test_parameters_that_are_fields_replace_them_and_the_rest_reaches_the_module(fit: Fit, mlp: TorchCandidate) -> None:
    found = fit(mlp, params={"learning_rate": 0.5, "width": 5}, epochs=1)
    assert found.curves["learning_rate"] == [0.5]
    assert found.module.last.in_features == 5


def test_an_impossible_field_is_refused(fit: Fit, mlp: TorchCandidate) -> None:
    with pytest.raises(UseCaseError, match="batch_size must be at least 1"):
        fit(mlp, params={"batch_size": 0})


def test_the_fitted_module_is_on_the_cpu_in_eval_mode_with_its_reason(fit: Fit, mlp: TorchCandidate) -> None:
    found = fit(mlp, epochs=1, hardware=Hardware(device="cpu"))
    assert not found.module.training
    assert {parameter.device.type for parameter in found.module.parameters()} == {"cpu"}
    assert found.reason == "cpu, float32: asked for"


def test_a_parents_weights_and_statistics_are_where_it_begins(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    X = rows[0] + np.float32([1, 1, 0])
    parent = fit(mlp, epochs=6)
    child, anew = (fit(mlp, X=X, epochs=1, seed=9, parent=one) for one in (parent.module.state_dict(), None))
    assert child.curves["fit_loss"][0] < anew.curves["fit_loss"][0] - 0.05
    assert child.module.mean.equal(parent.module.mean)


def test_a_parent_of_another_shape_is_refused_by_name(fit: Fit, mlp: TorchCandidate) -> None:
    parent = fit(mlp, epochs=1).module.state_dict()
    with pytest.raises(TrainingError, match=r"'mlp': hidden\.0\.weight is \(8, 4\), not \(5, 4\)"):
        fit(mlp, params={"width": 5}, parent=parent)


def test_a_module_to_start_from_is_fitted_further_and_not_changed(fit: Fit, mlp: TorchCandidate) -> None:
    start = fit(mlp).module
    before = {name: value.clone() for name, value in start.state_dict().items()}
    further = fit(mlp, start=start, epochs=2).module
    assert all(before[name].equal(value) for name, value in start.state_dict().items())
    assert not further.last.weight.equal(start.last.weight)
    assert further.mean.equal(start.mean)


def test_a_student_learns_from_its_teacher_what_the_outcomes_do_not_tell(
    fit: Fit, mlp: TorchCandidate, rows: Any
) -> None:
    X, _ = rows
    teacher = 1 / (1 + np.exp(-3 * np.nan_to_num(X[:, 0])))
    coins = np.random.default_rng(0).random(len(X)) < 0.5
    y = np.r_[coins[:990], teacher[990:] > 0.5].astype(np.int8)  # the fit rows' outcomes are coins
    taught = fit(mlp, y=y, epochs=10, teacher=teacher, distil=Distil(mlp, weight=1.0)).predict_proba(X)
    alone = fit(mlp, y=y, epochs=10).predict_proba(X)
    assert np.abs(taught[:, 1] - teacher).mean() < 0.5 * np.abs(alone[:, 1] - teacher).mean()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"X": np.zeros((0, 3), np.float32), "y": np.zeros(0, np.int8)}, "at least two rows"),
        ({"y": np.zeros(7, np.int8)}, r"outcomes \(7,\)"),
        ({"y": np.full(1_100, 2, np.int8)}, "outcomes from 2 to 2 for 2 classes"),
        ({"teacher": np.full(1_100, 0.5)}, "without a Distil"),
        ({"teacher": np.full(3, 0.5), "distil": True}, r"probabilities \(3,\) for 1100 rows"),
        ({"teacher": np.full(1_100, 1.5), "distil": True}, "not all between 0 and 1"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(
    fit: Fit, mlp: TorchCandidate, given: dict[str, Any], said: str
) -> None:
    distil = {"distil": Distil(mlp)} if "distil" in given else {}
    with pytest.raises(TrainingError, match=said):
        fit(mlp, **given | distil)


def test_what_is_no_module_is_refused(fit: Fit, mlp: TorchCandidate) -> None:
    with pytest.raises(TrainingError, match=r"not a torch\.nn\.Module"):
        fit(replace(mlp, module=lambda inputs: object()))


@pytest.mark.parametrize(("classes", "said"), [(0, "one logit a row"), (4, "4 logits a row")])
def test_a_module_with_another_number_of_logits_is_refused(
    fit: Fit, mlp: TorchCandidate, classes: int, said: str
) -> None:
    with pytest.raises(TrainingError, match=rf"gives \(2, 3\) for 2 rows; {said}"):
        fit(mlp, classes=classes, params={"classes": 3})


def test_a_module_without_weights_is_refused(fit: Fit, mlp: TorchCandidate) -> None:
    import torch

    class Sum(torch.nn.Module):
        def forward(self, X: Any) -> Any:
            return torch.nan_to_num(X).sum(1)

    with pytest.raises(TrainingError, match="no parameter that can be fitted"):
        fit(replace(mlp, module=lambda inputs: Sum()))


def test_rows_that_cannot_be_written_to_are_fitted_all_the_same(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    X = rows[0].copy()
    X.flags.writeable = False
    assert fit(mlp, X=X, epochs=1).predict_proba(X).shape == (1_100, 2)
