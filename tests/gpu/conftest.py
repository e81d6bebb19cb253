"""Tests that need a CUDA device: skipped, with the reason, where torch finds none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from millrace import ModelInput, TorchCandidate

ROWS, WIDTH = 20_000, 20
INPUTS = tuple(ModelInput(f"x{position}", "numeric") for position in range(WIDTH))


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device on this machine")


def build_mlp(inputs: Sequence[ModelInput], width: int = 256, depth: int = 3) -> Any:
    """A plain network on numbers, missing ones as zero."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts: list[nn.Module] = [nn.Linear(len(inputs), width), nn.ReLU()]
            for _ in range(depth - 1):
                parts += [nn.Linear(width, width), nn.ReLU()]
            self.layers = nn.Sequential(*parts)
            self.last = nn.Linear(width, 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return self.last(self.layers(torch.nan_to_num(X))).squeeze(-1)

    return Network()


@pytest.fixture(scope="session")
def rows() -> tuple[Any, Any]:
    """X (20000, 20), some of it missing, and outcomes that depend on it."""
    random = np.random.default_rng(0)
    X = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    y = (random.random(ROWS) < 1 / (1 + np.exp(-X[:, 0] * 2 + X[:, 1]))).astype(np.int8)
    X[random.random(X.shape) < 0.05] = np.nan
    return X, y


@pytest.fixture
def mlp() -> TorchCandidate:
    """The network, three epochs in float32."""
    return TorchCandidate("mlp", build_mlp, max_epochs=3, batch_size=512, precision="32")


@pytest.fixture
def fit(rows: tuple[Any, Any]) -> Callable[..., Any]:
    """`fit_torch` on the rows with seed 1: fit(candidate, **others)."""
    from training.network import fit_torch

    def call(candidate: TorchCandidate, **others: Any) -> Any:
        return fit_torch(candidate, INPUTS, *rows, **{"params": {}, "seed": 1} | others)

    return call
