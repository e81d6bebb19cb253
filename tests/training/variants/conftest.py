"""Small rows and networks with variants, fitted once, for the tests of variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from millrace import ModelInput, TorchCandidate
from millrace.inputs import InputSpec
from training.export import Exported, export
from training.fit import Fitted, fit
from training.hardware import Hardware
from training.made import Made, Rows
from training.variants import make_variants

INPUTS = (InputSpec("a", "numeric", low=-3, high=3), InputSpec("b", "numeric", low=-3, high=3))
SEEN = (InputSpec("image", "numeric", low=-3, high=3, size=16),)


def build_net(inputs: Sequence[ModelInput], width: int = 16, classes: int = 0) -> Any:
    """A network on two numbers of which each may be missing."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            self.last = nn.Linear(width, classes or 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            logits = self.last(self.layers(torch.where(X.isnan(), 0.0, X).clamp(-5, 5)))
            return logits if classes else logits.squeeze(-1)

    return Net()


def build_cnn(inputs: Sequence[ModelInput], width: int = 8) -> Any:
    """A small convolutional network with normalization, of three classes, on images of 4 × 4."""
    import torch
    from torch import nn

    class Cnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
            self.layers = nn.Sequential(*first, nn.Flatten(), nn.Linear(4 * width, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return self.layers(torch.where(X.isnan(), 0.0, X).clamp(-5, 5).view(-1, 1, 4, 4))

    return Cnn()


def rows_of(classes: int = 0, count: int = 1200) -> Rows:
    """Rows of two numbers, or with classes of 16 whose outcome can be learned, some values missing."""
    random = np.random.default_rng(0)
    specs = SEEN if classes else INPUTS
    X = random.normal(size=(count, sum(spec.size for spec in specs))).astype(np.float32)
    score = X[:, 0] - X[:, 1] + 0.3 * random.normal(size=count)
    y = np.digitize(score, [-0.7, 0.7]) if classes else score > 0
    X[random.random(X.shape) < 0.02] = np.nan
    times = np.datetime64("2013-01-01") + np.arange(count).astype("timedelta64[m]")
    inputs = tuple(ModelInput(spec.name, spec.kind, spec.categories, spec.size) for spec in specs)
    return Rows(specs, inputs, X, y.astype(np.int8), times, times, classes, 0, Hardware("cpu"))


def fitted_on(candidate: TorchCandidate, rows: Rows) -> tuple[Fitted, Exported]:
    """The candidate fitted and exported as a training does it."""
    found = fit(candidate, rows.model_inputs, rows.X, rows.y, classes=rows.classes, hardware=rows.hardware)
    return found, export(candidate.name, found.model, rows.inputs, rows.X, classes=rows.classes)


@pytest.fixture(scope="session")
def net() -> TorchCandidate:
    """A candidate of two outcomes."""
    return TorchCandidate("net", build_net, max_epochs=8, batch_size=128, learning_rate=1e-2)


@pytest.fixture(scope="session")
def cnn() -> TorchCandidate:
    """A candidate of three classes."""
    return TorchCandidate("cnn", build_cnn, max_epochs=12, batch_size=64, learning_rate=1e-2)


@pytest.fixture(scope="session")
def net_rows() -> Rows:
    """Rows for `net`."""
    return rows_of()


@pytest.fixture(scope="session")
def cnn_rows() -> Rows:
    """Rows for `cnn`."""
    return rows_of(classes=3)


@pytest.fixture(scope="session")
def net_fitted(net: TorchCandidate, net_rows: Rows) -> tuple[Fitted, Exported]:
    """`net` on its rows."""
    return fitted_on(net, net_rows)


@pytest.fixture(scope="session")
def cnn_fitted(cnn: TorchCandidate, cnn_rows: Rows) -> tuple[Fitted, Exported]:
    """`cnn` on its rows."""
    return fitted_on(cnn, cnn_rows)


@pytest.fixture(scope="session")
def made_of(net: TorchCandidate, net_rows: Rows, net_fitted: tuple[Fitted, Exported]) -> Callable[..., list[Made]]:
    """`made_of(*variants)`: these variants of `net`."""

    def make(*variants: Any) -> list[Made]:
        return list(make_variants(replace(net, variants=variants), *net_fitted, net_rows, name="net"))

    return make


@pytest.fixture(scope="session")
def cnn_made_of(cnn: TorchCandidate, cnn_rows: Rows, cnn_fitted: tuple[Fitted, Exported]) -> Callable[..., list[Made]]:
    """`cnn_made_of(*variants)`: these variants of `cnn`."""

    def make(*variants: Any) -> list[Made]:
        return list(make_variants(replace(cnn, variants=variants), *cnn_fitted, cnn_rows, name="cnn"))

    return make


@pytest.fixture(scope="session")
def student() -> TorchCandidate:
    """A smaller candidate than `net`."""
    return TorchCandidate("student", partial(build_net, width=4), max_epochs=8, batch_size=128, learning_rate=1e-2)
