"""Small rows that a small network learns, and the networks, for the tests of torch estimators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from millrace import ModelInput, TorchCandidate
from training.network import fit_torch

INPUTS = (ModelInput("a", "numeric"), ModelInput("b", "numeric"), ModelInput("c", "categorical", ("x", "y")))
ROWS = 1_100


def build_network(
    inputs: Sequence[ModelInput], width: int = 8, classes: int = 0, spoil: str = "", dropout: float = 0.0
) -> Any:
    """A network with an embedding, a list of modules and means learned from the fit rows.

    `spoil` is `missing` for one that does not handle NaN, `gradient` for one whose gradient is NaN at its loss's
    finite value, `watch` for one that has no finite logit in eval mode after its first steps.
    """
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))
            self.embeddings = torch.nn.ModuleList([torch.nn.Embedding(3, 2)])
            self.hidden = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Dropout(dropout))
            self.last = torch.nn.Linear(width, classes or 1)

        def fit_statistics(self, rows: torch.Tensor) -> None:
            self.seen_rows = len(rows)
            self.mean.copy_(rows[:, :2].nanmean(0))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            numbers = rows[:, :2] - self.mean
            numbers = numbers if spoil == "missing" else torch.nan_to_num(numbers)
            hidden = self.hidden(torch.cat([numbers, self.embeddings[0](rows[:, 2].long())], dim=1))
            if spoil == "gradient":
                hidden = hidden + torch.sqrt(self.last.weight.sum() * 0)
            logits = self.last(hidden)
            if spoil == "watch" and not self.training and bool(self.mean.any()):
                logits = logits * torch.inf
            return logits if classes else logits.squeeze(-1)

    return Network()


@pytest.fixture(scope="session")
def network() -> Callable[..., Any]:
    """`build_network`."""
    return build_network


@pytest.fixture(scope="session")
def rows() -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """X (1100, 3), a tenth of its first column missing, and outcomes that depend on the other two."""
    random = np.random.default_rng(3)
    X = np.column_stack([random.normal(size=(ROWS, 2)), random.integers(0, 3, size=ROWS)]).astype(np.float32)
    X[random.random(ROWS) < 0.1, 0] = np.nan
    y = (random.random(ROWS) < 1 / (1 + np.exp(-2 * X[:, 1] - X[:, 2]))).astype(np.int8)
    return X, y


@pytest.fixture(scope="session")
def fit(rows: tuple[NDArray[np.float32], NDArray[np.int8]]) -> Callable[..., Any]:
    """`fit_torch` on the rows with seed 1: fit(candidate, **others)."""

    def call(candidate: TorchCandidate, X: Any = None, y: Any = None, **others: Any) -> Any:
        X, y = rows[0] if X is None else X, rows[1] if y is None else y
        return partial(fit_torch, candidate, INPUTS, X, y)(**{"params": {}, "seed": 1} | others)

    return call


@pytest.fixture
def mlp() -> TorchCandidate:
    """The network, three epochs of eight batches."""
    return TorchCandidate("mlp", build_network, max_epochs=3, batch_size=128, learning_rate=0.01)
