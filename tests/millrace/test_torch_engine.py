"""A network that ONNX could not stand for is run by torch: its use case's code, the bundle's weights, nothing else."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from millrace.bundle import Bundle, open_bundle, write_bundle
from millrace.contract import Contract
from millrace.engine import open_engine
from millrace.errors import BundleError
from millrace.inputs import InputSpec
from millrace.keys import public_key, signing_key
from millrace.settings import Settings, read_settings

USE_CASE = """
from datetime import timedelta
import polars as pl
from millrace import Candidate, Label, Population, Source, TorchCandidate, UseCase
from millrace.candidates import Distil


def network(inputs, width=4, classes=0):
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(len(inputs), width), torch.nn.ReLU(), torch.nn.Linear(width, classes or 1)
            )
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, rows):
            logits = self.layers(torch.nan_to_num(rows) - self.seen)
            return logits if classes else logits.squeeze(-1)

    return Net()


def broken(inputs):
    raise ValueError("no such layer")


rows = Source("rows", read=lambda since, until: pl.DataFrame(), schema=lambda: None, key=("id",))
student = TorchCandidate("student", network)
use_case = UseCase(
    name="nets",
    question="Which?",
    sources=(rows,),
    population=Population(rows),
    label=Label(rows, "label", timedelta(hours=1)),
    request_features=("a", "b"),
    candidates=(
        TorchCandidate("mlp", network, variants=(Distil(student),)),
        TorchCandidate("broken", broken),
        Candidate("trees", lambda inputs: None),
    ),
)
"""
INPUTS = (InputSpec("a", "numeric", low=-1.0, high=1.0), InputSpec("b", "numeric", low=-1.0, high=1.0))
MATRIX = np.array([[0.5, -1.0], [np.nan, 2.0], [0.0, 0.0]], dtype=np.float32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "cases" / "nets"
    folder.mkdir(parents=True)
    (folder / "use_case.py").write_text(USE_CASE)
    return read_settings(home=tmp_path / "home", use_cases=tmp_path / "cases")


def contract(candidate: str = "mlp", **params: Any) -> Contract:
    lineage = {"params": params | {"learning_rate": 0.1}}
    moment = datetime(2013, 4, 1, tzinfo=UTC)
    return Contract("nets", "Which?", candidate, "torch", INPUTS, moment, lineage=lineage)


def fitted(settings: Settings, width: int = 4, classes: int = 0) -> Any:
    """A network of the use case with weights of its own."""
    import torch

    from millrace.loader import load_use_case

    torch.manual_seed(3)
    network = load_use_case("nets", settings).candidates[0].module(INPUTS, width=width, classes=classes)
    network.seen += 0.25
    return network.eval()


def staged(settings: Settings, made: Contract, network: Any) -> Bundle:
    from safetensors.torch import save

    reference = pl.DataFrame({"a": [0.5], "b": [0.1], "score": [0.5], "label": [1], "predicted": ["x"]})
    folder, key = settings.home / "bundle", signing_key(settings)
    write_bundle(folder, contract=made, model=save(network.state_dict()), reference=reference, key=key)
    return open_bundle(folder, public_key=public_key(settings))


def probabilities(network: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(MATRIX)).sigmoid().numpy().astype(np.float64)


def test_a_bundled_network_predicts_what_the_fitted_one_did(settings: Settings) -> None:
    network = fitted(settings)
    engine = open_engine(staged(settings, contract(), network), settings=settings)
    assert engine.name == "torch"
    assert engine.predict(MATRIX).tolist() == probabilities(network).tolist()


def test_a_network_is_built_with_the_parameters_that_were_found(settings: Settings) -> None:
    network = fitted(settings, width=7)
    engine = open_engine(staged(settings, contract(width=7), network), settings=settings)
    assert engine.predict(MATRIX).tolist() == probabilities(network).tolist()


def test_several_outcomes_have_a_probability_each(settings: Settings) -> None:
    made = dataclasses.replace(contract(classes=3), classes=("x", "y", "z"))
    scores = open_engine(staged(settings, made, fitted(settings, classes=3)), settings=settings).predict(MATRIX)
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-12)


def test_a_distilled_student_is_found_by_its_teachers_name(settings: Settings) -> None:
    network = fitted(settings)
    engine = open_engine(staged(settings, contract("mlp+student"), network), settings=settings)
    assert engine.predict(MATRIX).tolist() == probabilities(network).tolist()


def test_weights_that_no_longer_fit_the_code_are_refused(settings: Settings) -> None:
    with pytest.raises(BundleError, match="do not fit the network"):
        open_engine(staged(settings, contract(width=5), fitted(settings, width=4)), settings=settings)


@pytest.mark.parametrize("name", ["absent", "trees", "mlp+absent", "trees+student"])
def test_a_name_that_is_no_network_is_refused_and_told_which_are(settings: Settings, name: str) -> None:
    with pytest.raises(BundleError, match="declares no network") as caught:
        open_engine(staged(settings, contract(name), fitted(settings)), settings=settings)
    assert caught.value.looked == "Its networks are: mlp, broken."


def test_code_that_raises_is_named(settings: Settings) -> None:
    with pytest.raises(BundleError, match="cannot build the network 'broken': ValueError: no such layer"):
        open_engine(staged(settings, contract("broken"), fitted(settings)), settings=settings)


def test_scores_of_another_shape_than_the_contracts_are_refused(settings: Settings) -> None:
    made = dataclasses.replace(contract(), classes=("x", "y", "z"))
    engine = open_engine(staged(settings, made, fitted(settings)), settings=settings)
    with pytest.raises(BundleError, match="logits of shape"):
        engine.predict(MATRIX)
