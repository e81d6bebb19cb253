"""What is served gives the fitted model's probabilities, by ONNX when that proves equal and natively when not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from millrace import Candidate, ModelInput, TorchCandidate
from millrace.errors import TrainingError
from millrace.inputs import InputSpec
from training import export as export_module
from training.export import export, parity_rows
from training.fit import fit

SPECS = (
    InputSpec("a", "numeric", low=-3.0, high=3.0),
    InputSpec("b", "numeric", low=-3.0, high=3.0),
    InputSpec("c", "categorical", ("x", "y", "z")),
)
INPUTS = tuple(ModelInput(spec.name, spec.kind, spec.categories) for spec in SPECS)
RANDOM = np.random.default_rng(5)
X = np.column_stack([RANDOM.normal(size=(2_000, 2)), RANDOM.integers(0, 4, size=2_000)]).astype(np.float32)
X[RANDOM.random(2_000) < 0.1, 0] = np.nan
Y = (RANDOM.random(2_000) < 1 / (1 + np.exp(-2 * X[:, 1] - (X[:, 2] == 1)))).astype(np.int8)


def fitted(builder: Callable[..., Any]) -> Any:
    return fit(Candidate("any", builder), INPUTS, X, Y).model


@pytest.mark.parametrize("name", ["logistic", "trees", "coin"])
def test_scikit_learn_models_are_served_by_onnx_and_equal(name: str, builders: dict[str, Callable[..., Any]]) -> None:
    model = fitted(builders[name])
    found = export(name, model, SPECS, X)
    assert (found.kind, found.reason) == ("onnx", "")
    assert found.difference <= 1e-5
    np.testing.assert_allclose(found.engine.predict(X), model.predict_proba(X)[:, 1], atol=1e-5)


def test_trees_agree_at_every_threshold_and_right_beside_it(builders: dict[str, Callable[..., Any]]) -> None:
    model = fitted(builders["trees"])
    nodes = np.concatenate([tree.nodes for (tree,) in model._predictors])
    inner = nodes[nodes["is_leaf"] == 0]
    at = inner["num_threshold"].astype(np.float32)
    rows = np.resize(X, (3 * len(inner), 3)).copy()
    for part, values in enumerate((at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf)))):
        rows[part * len(inner) + np.arange(len(inner)), inner["feature_idx"]] = values
    engine = export("trees", model, SPECS, X).engine
    np.testing.assert_allclose(engine.predict(rows), model.predict_proba(rows)[:, 1], atol=1e-5)


def test_trees_with_declared_categories_convert_wrongly_and_are_served_natively() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = fitted(lambda inputs: HistGradientBoostingClassifier(max_iter=10, categorical_features=[2]))
    found = export("trees", model, SPECS, X)
    assert found.kind == "skops"
    assert "skl2onnx" in found.reason
    assert found.engine.predict(X).tolist() == model.predict_proba(X)[:, 1].tolist()


def test_a_converter_that_is_silently_wrong_is_found_out(
    builders: dict[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = fitted(builders["trees"]), fitted(lambda inputs: builders["trees"](inputs, max_iter=2))
    convert = export_module._skl2onnx
    monkeypatch.setattr(export_module, "_skl2onnx", lambda model, width: convert(wrong, width))
    found = export("trees", right, SPECS, X)
    assert found.kind == "skops"
    assert "rows differ from the fitted model" in found.reason


class Halves:
    """A classifier that nobody can convert and that is on no list."""

    def fit(self, X: Any, y: Any) -> Halves:
        return self

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.5)


def test_a_model_that_only_a_pickle_could_carry_is_refused() -> None:
    with pytest.raises(TrainingError, match="'halves' can be served by no engine") as caught:
        export("halves", Halves(), SPECS, X)
    assert "not on Millrace's list" in caught.value.looked


def test_a_model_that_fails_on_missing_values_is_refused() -> None:
    class Fragile(Halves):
        def predict_proba(self, X: Any) -> Any:
            return np.where(np.isnan(X[:, :1]), np.nan, 0.5) * np.ones((1, 2))

    with pytest.raises(TrainingError, match="'fragile' gives no probability"):
        export("fragile", Fragile(), SPECS, X)


def linear(inputs: Any) -> Any:
    import torch

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.nan_to_num(rows)).squeeze(-1)

    return Linear()


def branching(inputs: Any) -> Any:
    import torch

    class Branching(torch.nn.Module):
        """What it gives depends on the batch: tracing sees one branch only."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            logits = self.layer(torch.nan_to_num(rows)).squeeze(-1)
            return -logits if bool(rows.isnan().any()) else logits

    return Branching()


def test_a_network_is_served_by_onnx_and_equal() -> None:
    model = fit(TorchCandidate("mlp", linear, max_epochs=1), INPUTS, X, Y).model
    found = export("mlp", model, SPECS, X)
    assert found.kind == "onnx"
    for rows in (1, 2, 100):
        np.testing.assert_allclose(found.engine.predict(X[:rows]), model.predict_proba(X[:rows])[:, 1], atol=1e-5)


def test_a_network_that_tracing_gets_wrong_is_served_by_its_weights() -> None:
    model = fit(TorchCandidate("odd", branching, max_epochs=1), INPUTS, X, Y).model
    found = export("odd", model, SPECS, X)
    assert found.kind == "torch"
    assert "trace: BundleError" in found.reason
    assert "torch_export" in found.reason
    np.testing.assert_allclose(found.engine.predict(X), model.predict_proba(X)[:, 1], atol=1e-6)


def test_one_whose_code_does_not_build_it_is_not_served() -> None:
    model = fit(TorchCandidate("odd", branching, max_epochs=1), INPUTS, X, Y).model
    with pytest.raises(TrainingError, match="'odd' can be served by no engine"):
        export("odd", model, SPECS, X, declared=False)


def test_parity_is_asked_of_real_rows_and_of_the_edges() -> None:
    rows = parity_rows(SPECS, np.resize(X, (30_000, 3)))
    edges = rows[10_000:]
    assert len(rows) == 10_000 + 1 + 7 + 7 + 1
    assert np.isnan(edges[0][:2]).all()
    assert edges[0][2] == 3
    assert {-3.0, 3.0, -4.0, 4.0, -1e9, 1e9} <= set(edges[:, 0].tolist())
    assert rows.dtype == np.float32


def test_a_trees_thresholds_split_float32_rows_as_the_fitted_model_does():
    """Numbers on a coarse grid put thresholds halfway between two float32 values, where rounding to nearest errs."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    X = (np.round(rng.normal(size=(20_000, 4)) * 10) / 10).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    y = (np.nan_to_num(X[:, 0]) + rng.normal(size=len(X)) > 0).astype(int)
    model = HistGradientBoostingClassifier(max_iter=60).fit(X, y)
    exported = export("gbm", model, tuple(InputSpec(f"x{i}", "numeric", low=-5, high=5) for i in range(4)), X)
    assert (exported.kind, exported.reason) == ("onnx", "")
    assert np.abs(exported.engine.predict(X) - model.predict_proba(X)[:, 1]).max() < 1e-5


def test_a_model_that_raises_on_missing_values_is_told_so() -> None:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(np.nan_to_num(X), Y)
    with pytest.raises(TrainingError, match="'bare' cannot predict every row: ValueError: Input X contains NaN"):
        export("bare", model, SPECS, X)
