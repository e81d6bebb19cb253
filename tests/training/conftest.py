"""A small use case with a learnable outcome, its training set, and its read plan, for the tests of training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace import (
    Budget,
    Candidate,
    FeatureTable,
    Label,
    ModelInput,
    Population,
    Source,
    TorchCandidate,
    Training,
    UseCase,
    at_least,
    at_most,
)
from millrace.registry import mlflow_client
from millrace.settings import Settings, read_settings

T0 = datetime(2013, 1, 1, tzinfo=UTC)
AS_OF = T0 + timedelta(days=40)
FEATURES = ("delay", "hour", "carrier", "rain")


def build_logistic(inputs: Sequence[ModelInput], C: float = 1.0) -> Any:
    """Imputed, scaled numbers and one-hot categories into a logistic regression."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = [index for index, one in enumerate(inputs) if one.kind == "numeric"]
    categorical = [index for index, one in enumerate(inputs) if one.kind == "categorical"]
    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    columns = make_column_transformer((numbers, numeric), (OneHotEncoder(handle_unknown="ignore"), categorical))
    return make_pipeline(columns, LogisticRegression(C=C))


def build_trees(inputs: Sequence[ModelInput], max_iter: int = 30) -> Any:
    """A small gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=max_iter, max_leaf_nodes=8, early_stopping=False)


def build_coin(inputs: Sequence[ModelInput]) -> Any:
    """What knows next to nothing: a regression held near the share of positives."""
    return build_logistic(inputs, C=1e-6)


def build_net(inputs: Sequence[ModelInput]) -> Any:
    """A network of one linear layer on what is not missing."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(len(inputs), 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return self.layer(X.nan_to_num(0.0)).squeeze(-1)

    return Net()


def rows_until(as_of: datetime, *, days: int = 40, a_day: int = 60, seed: int = 0) -> pl.DataFrame:
    """Labelled rows before `as_of`, with an outcome that depends on delay, carrier and (not linearly) hour."""
    random = np.random.default_rng(seed)
    count = days * a_day
    delay, hour = random.normal(size=count), random.integers(0, 24, size=count)
    carrier = random.choice(["AA", "B6", "UA", None], p=[0.4, 0.3, 0.2, 0.1], size=count)
    chance = 1.2 * delay + np.where(carrier == "B6", 1.0, -0.5) + np.where(abs(hour - 12.0) < 4, 1.5, -0.5)
    frame = pl.DataFrame(
        {
            "id": np.arange(count),
            "event_time": [as_of - timedelta(days=days) + timedelta(days=days) * (i / count) for i in range(count)],
            "delay": np.where(random.random(count) < 0.1, np.nan, delay),
            "hour": hour,
            "carrier": carrier.tolist(),
            "rain": random.random(count) < 0.3,
            "label": (random.random(count) < 1 / (1 + np.exp(-chance))).astype(np.int8),
        },
        schema_overrides={"event_time": pl.Datetime("us", "UTC")},
    )
    return frame.with_columns(
        pl.col("delay").fill_nan(None), label_known_at=pl.col("event_time") + timedelta(hours=3)
    ).filter(pl.col("label_known_at") <= as_of)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made, which costs seconds, to copy for each test."""
    settings = read_settings(home=tmp_path_factory.mktemp("mlflow"))
    mlflow_client(settings)
    return settings.home / "mlflow.db"


@pytest.fixture
def settings(settings: Settings, mlflow_template: Path) -> Settings:
    """The test's own settings, with an MLflow whose tables are there."""
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(mlflow_template, settings.home / "mlflow.db")
    return settings


@pytest.fixture
def training_rows() -> Callable[..., pl.DataFrame]:
    """`rows_until`."""
    return rows_until


@pytest.fixture
def as_of() -> datetime:
    """When the tests train."""
    return AS_OF


@pytest.fixture
def training_set() -> TrainingSet:
    """Forty days of rows, as the features room hands them over."""
    return TrainingSet(rows_until(AS_OF), FEATURES, {"raw/trips": 3}, unlabelled=7)


@pytest.fixture
def plan() -> ReadPlan:
    """A plan that reads nothing but the features' names."""
    return ReadPlan("late", "late_v1", views=(), on_demand=(), features=FEATURES)


@pytest.fixture
def use_case() -> UseCase:
    """Logistic regression against trees, a coin as the baseline, and a budget that both keep."""
    trips = Source("trips", read=lambda since, until: pl.DataFrame(), schema=lambda: None, key=("id",))
    return UseCase(
        name="late",
        question="Late?",
        sources=(trips,),
        population=Population(trips),
        label=Label(trips, "late", timedelta(hours=3)),
        feature_tables=(FeatureTable("recent", lambda tables: tables["trips"], reads=(trips,), entity=("carrier",)),),
        feature_repo=lambda source: [],
        baseline=Candidate("coin", build_coin),
        candidates=(
            Candidate("logistic", build_logistic, search={"C": (1.0, 0.1)}),
            Candidate("trees", build_trees, search={"max_iter": (30, 60)}),
        ),
        budget=Budget(at_least(roc_auc=0.65), at_most(p99_ms=10, memory_mb=100)),
        slices=("carrier",),
        training=Training(history=timedelta(days=60), holdout=timedelta(days=7), min_rows=500),
    )


@pytest.fixture
def with_network(use_case: UseCase) -> UseCase:
    """The use case with a network alone, fitted for one epoch."""
    return replace(use_case, baseline=None, candidates=(TorchCandidate("net", build_net, max_epochs=1),))


@pytest.fixture
def builders() -> dict[str, Callable[..., Any]]:
    """The builders above by name."""
    return {"logistic": build_logistic, "trees": build_trees, "coin": build_coin}
