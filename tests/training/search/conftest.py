"""Rows with an outcome that a model of one number learns, that model, and a storage whose tables are made already."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from millrace import Candidate, ModelInput, Real
from training.search import Found, search

HOUR = np.timedelta64(3_600_000_000, "us")
INPUTS = (ModelInput("row", "numeric"), ModelInput("x", "numeric"))


class Slope:
    """A logistic curve of the second column with a given slope; it only remembers which rows it was fitted on.

    The rows were drawn with a slope of 2, so that the log loss is least there.
    """

    def __init__(self, slope: float, heard: Callable[[Slope], None] = lambda model: None) -> None:
        self.slope, self.heard = slope, heard
        self.fitted = self.scored = np.empty(0)

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Slope:
        self.fitted = X[:, 0]
        self.heard(self)
        return self

    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        self.scored = X[:, 0]
        self.heard(self)
        positive = 1 / (1 + np.exp(-self.slope * X[:, 1].astype(np.float64)))
        return np.column_stack([1 - positive, positive])


@pytest.fixture(scope="session")
def rows() -> dict[str, NDArray[Any]]:
    """600 rows, an hour apart, labels known two hours later; the first column is the row's position."""
    random = np.random.default_rng(4)
    x = random.normal(size=600)
    times = np.datetime64("2013-01-01", "us") + np.arange(600) * HOUR
    return {
        "X": np.column_stack([np.arange(600), x]).astype(np.float32),
        "y": (random.random(600) < 1 / (1 + np.exp(-2 * x))).astype(np.int8),
        "times": times,
        "known": times + 2 * HOUR,
    }


@pytest.fixture
def slope() -> Callable[..., Any]:
    """`Slope`."""
    return Slope


@pytest.fixture(scope="session")
def candidate() -> Candidate:
    """The slope from 0.01 to 10, 0.05 without a search."""
    return Candidate("curve", build_slope, search={"slope": Real(0.01, 10, default=0.05, log=True)})


def build_slope(inputs: Sequence[ModelInput], slope: float) -> Any:
    """A `Slope`."""
    return Slope(slope)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with its tables made, which costs half a second, to copy for each test."""
    from optuna.storages import RDBStorage

    path = tmp_path_factory.mktemp("search") / "search.db"
    engine = RDBStorage(f"sqlite:///{path}")
    engine.engine.dispose()
    return path


@pytest.fixture
def storage(tmp_path: Path, template: Path) -> str:
    """The test's own storage."""
    shutil.copy(template, tmp_path / "search.db")
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.fixture
def find(rows: dict[str, NDArray[Any]], storage: str) -> Callable[..., Found]:
    """`search` on the rows above and the test's own storage; any argument may be given anew."""
    return finder(rows, storage)


@pytest.fixture(scope="session")
def searched(candidate: Candidate, rows: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Sixteen trials of the slope."""
    return finder(rows, f"sqlite:///{tmp_path_factory.mktemp('searched')}/search.db")(candidate, 16)


def finder(rows: dict[str, NDArray[Any]], storage: str) -> Callable[..., Found]:
    """`search` on these rows and this storage."""

    def find(candidate: Candidate, trials: int = 12, **given: Any) -> Found:
        arguments = {**rows, "inputs": INPUTS, "storage": storage, "name": "case/curve"} | given
        return search(candidate, trials=trials, **arguments)

    return find
