"""Candidates are fitted the same way every time, and one that cannot be is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from millrace import Candidate, ModelInput, TorchCandidate
from millrace.errors import TrainingError
from training.fit import fit

INPUTS = (ModelInput("a", "numeric"), ModelInput("b", "numeric"), ModelInput("c", "categorical", ("x", "y")))
RANDOM = np.random.default_rng(3)
X = np.column_stack([RANDOM.normal(size=(3_000, 2)), RANDOM.integers(0, 3, size=3_000)]).astype(np.float32)
X[RANDOM.random(3_000) < 0.1, 0] = np.nan
Y = (RANDOM.random(3_000) < 1 / (1 + np.exp(-2 * X[:, 1] - X[:, 2]))).astype(np.int8)


def network(inputs: Sequence[ModelInput], width: int = 8, spoil: bool = False) -> Any:
    """A small network with an embedding; it learns its means from the fit rows."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))
            self.embedding = torch.nn.Embedding(3, 2)
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

        def fit_statistics(self, rows: torch.Tensor) -> None:
            self.seen_rows = len(rows)
            self.mean.copy_(rows[:, :2].nanmean(0))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            numbers = rows[:, :2] - self.mean
            numbers = numbers if spoil else torch.nan_to_num(numbers)
            return self.layers(torch.cat([numbers, self.embedding(rows[:, 2].long())], dim=1)).squeeze(-1)

    return Network()


MLP = TorchCandidate("mlp", network, search={"width": (8, 16)}, max_epochs=3, batch_size=256)


def test_defaults_are_the_first_values_and_given_parameters_win(builders: dict[str, Callable[..., Any]]) -> None:
    candidate = Candidate("trees", builders["trees"], search={"max_iter": (3, 5)})
    assert fit(candidate, INPUTS, X, Y).params == {"max_iter": 3}
    found = fit(candidate, INPUTS, X, Y, params={"max_iter": 5})
    assert found.model.n_iter_ == 5  # type: ignore[attr-defined]  # the estimator's own


def test_the_seed_reaches_every_part_of_a_pipeline() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    built = make_pipeline(HistGradientBoostingClassifier(max_iter=2, early_stopping=True))
    fit(Candidate("trees", lambda inputs: built), INPUTS, X, Y, seed=11)
    assert built.get_params()["histgradientboostingclassifier__random_state"] == 11


def test_the_same_seed_gives_the_same_network_and_another_gives_another() -> None:
    first, again, other = (fit(MLP, INPUTS, X, Y, seed=seed).model.predict_proba(X) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_fitting_a_network_leaves_torch_as_it_was() -> None:
    import torch

    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    fit(MLP, INPUTS, X, Y, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_network_learns_and_tells_its_curves() -> None:
    from millrace.quality import roc_auc

    found = fit(TorchCandidate("mlp", network, max_epochs=8, batch_size=128, learning_rate=0.02), INPUTS, X, Y)
    scores = found.model.predict_proba(X)
    assert roc_auc(Y, scores[:, 1]) > 0.8
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert len(found.curves["fit_loss"]) == len(found.curves["watch_loss"]) >= 3
    assert found.curves["fit_loss"][0] > found.curves["fit_loss"][-1]


def test_a_network_sees_the_first_nine_tenths_for_its_statistics() -> None:
    module = fit(MLP, INPUTS, X, Y).model.module  # type: ignore[attr-defined]  # the torch classifier's own
    assert module.seen_rows == 2_700
    np.testing.assert_allclose(module.mean.numpy(), np.nanmean(X[:2_700, :2], axis=0), rtol=1e-4)


def test_a_network_stops_early_and_keeps_the_best_weights() -> None:
    flipped = np.r_[Y[:2_700], 1 - Y[2_700:]].astype(np.int8)  # what it learns makes the last tenth ever worse
    candidate = TorchCandidate("mlp", network, max_epochs=50, batch_size=256, learning_rate=0.05)
    curve = fit(candidate, INPUTS, X, flipped).curves["watch_loss"]
    assert len(curve) < 50
    assert len(curve) == int(np.argmin(curve)) + 3


def test_a_loss_that_is_no_number_stops_at_its_batch() -> None:
    with pytest.raises(TrainingError, match=r"'mlp' became nan in epoch 1, batch 1"):
        fit(TorchCandidate("mlp", network, search={"spoil": (True,)}, batch_size=2_000), INPUTS, X, Y)


def test_a_candidate_that_raises_is_named_with_its_error() -> None:
    def build(inputs: Sequence[ModelInput]) -> Any:
        raise KeyError("depth")

    with pytest.raises(TrainingError, match="'broken' cannot be fitted: KeyError: 'depth'"):
        fit(Candidate("broken", build), INPUTS, X, Y)


@pytest.mark.parametrize("built", [object(), None, "model"])
def test_what_is_no_classifier_is_refused(built: Any) -> None:
    with pytest.raises(TrainingError, match="without fit and predict_proba"):
        fit(Candidate("odd", lambda inputs: built), INPUTS, X, Y)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"not a torch\.nn\.Module"):
        fit(TorchCandidate("odd", lambda inputs: object()), INPUTS, X, Y)


def test_a_module_with_two_logits_a_row_is_refused() -> None:
    import torch

    with pytest.raises(TrainingError, match=r"gives \(2, 2\) for 2 rows"):
        fit(TorchCandidate("odd", lambda inputs: torch.nn.Linear(3, 2)), INPUTS, X, Y)


@pytest.mark.parametrize("how", ["main", "thread"])
def test_a_candidate_that_hangs_is_ended_at_its_timeout_and_named(how: str) -> None:
    def build(inputs: Sequence[ModelInput]) -> Any:
        while True:
            time.sleep(0.001)

    def work() -> None:
        with pytest.raises(TrainingError, match=r"'slow' was not fitted within 0\.05 s, its timeout"):
            fit(Candidate("slow", build, timeout=timedelta(seconds=0.05)), INPUTS, X, Y)
        ended.append(how)

    ended: list[str] = []
    if how == "main":
        work()
    else:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
    assert ended == [how]


def test_an_outcome_that_was_not_seen_is_refused(builders: dict[str, Callable[..., Any]]) -> None:
    candidate = Candidate("trees", builders["trees"], search={"max_iter": (2,)})
    with pytest.raises(TrainingError, match=r"fitted on the outcomes 0, 1 of 0 to 2"):
        fit(candidate, INPUTS, X, Y, classes=3)


def test_an_estimator_has_a_column_for_each_class(builders: dict[str, Callable[..., Any]]) -> None:
    candidate = Candidate("trees", builders["trees"], search={"max_iter": (2,)})
    classes = X[:, 2].astype(np.int8)
    assert fit(candidate, INPUTS, X, classes, classes=3).model.predict_proba(X[:5]).shape == (5, 3)
