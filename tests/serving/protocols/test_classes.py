"""A model of three classes that takes an array and a flag, in both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient import http as triton

from millrace.db import ModelRow
from millrace.pyfunc import _load_pyfunc
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.keys import api_key

from ..conftest import NOW, client_of
from ..test_classes import CLASSES, champion, softmax, use_case

__all__ = ["champion", "use_case"]
SPECTRA = [[0.5, 2.0, 0.0], [3.0, 2.0, 0.0]]
LABELS = ["pear", "apple"]


@pytest.fixture
def client(settings: Settings, use_case: UseCase, champion: ModelRow) -> Iterator[httpx.Client]:
    with client_of(create_app(settings, [use_case], clock=lambda: NOW), settings) as client:
        yield client


def spectrum(values: Any, datatype: str, binary: bool) -> list[triton.InferInput]:
    array, flags = np.array(values, dtype=np.float32 if datatype == "FP32" else np.float64), np.array([True, False])
    return [
        triton.InferInput("spectrum", list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary),
        triton.InferInput("organic", [2], "BOOL").set_data_from_numpy(flags, binary_data=binary),
    ]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_an_unchanged_client_gets_the_label_and_every_score(
    client: httpx.Client, settings: Settings, binary: bool, datatype: str
) -> None:
    headers = {"X-API-Key": api_key(settings)}
    wanted = None if binary else [triton.InferRequestedOutput(name, binary_data=False) for name in ("label", "scores")]
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as unchanged:
        answer = unchanged.infer("late", spectrum(SPECTRA, datatype, binary), outputs=wanted, headers=headers)
    labels = answer.as_numpy("label").tolist()
    assert [one.decode() if binary else one for one in labels] == LABELS
    assert answer.as_numpy("scores") == pytest.approx(np.array([softmax(*one) for one in SPECTRA]), abs=1e-6)
    assert (answer.as_numpy("score") is None) == (not binary)


def test_a_missing_number_of_an_array_is_nan_in_binary_and_null_in_json(
    client: httpx.Client, settings: Settings
) -> None:
    headers = {"X-API-Key": api_key(settings)}
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as unchanged:
        inputs = spectrum([[1, np.nan, 0], [0, 0, 0]], "FP32", True)
        first = unchanged.infer("late", inputs, headers=headers).as_numpy("scores")
    assert first == pytest.approx(np.array([softmax(1, 0, 0), softmax(0, 0, 0)]), abs=1e-6)
    for data in ([1, None, 0], [[1, None, 0]]):
        told = [
            {"name": "spectrum", "shape": [1, 3], "datatype": "FP32", "data": data},
            {"name": "organic", "shape": [1], "datatype": "BOOL", "data": [None]},
        ]
        answer = client.post("/v2/models/late/infer", json={"inputs": told, "outputs": [{"name": "scores"}]})
        assert answer.json()["outputs"][0]["data"] == pytest.approx(softmax(1, 0, 0), abs=1e-6)


def test_the_metadata_has_sizes(client: httpx.Client) -> None:
    told = client.get("/v2/models/late").json()
    inputs = {one["name"]: (one["datatype"], one["shape"]) for one in told["inputs"]}
    assert (inputs["spectrum"], inputs["organic"]) == (("FP64", [-1, 3]), ("BOOL", [-1]))
    assert {one["name"]: one["shape"] for one in told["outputs"]} == {
        "label": [-1],
        "score": [-1],
        "scores": [-1, len(CLASSES)],
        "id": [-1],
        "flags": [-1],
    }


def test_wrong_arrays_and_flags_are_refused(client: httpx.Client) -> None:
    def field(spectrum: dict[str, Any], organic: dict[str, Any]) -> str:
        told = [{"name": "spectrum", "datatype": "FP32"} | spectrum, {"name": "organic", "datatype": "BOOL"} | organic]
        answer = client.post("/v2/models/late/infer", json={"inputs": told})
        assert answer.status_code == 422
        return str(answer.json()["detail"]["field"])

    good: tuple[dict[str, Any], dict[str, Any]] = {"shape": [1, 3], "data": [1, 2, 3]}, {"shape": [1], "data": [True]}
    assert field(good[0] | {"shape": [3]}, good[1]) == "inputs[0].shape"
    assert field(good[0] | {"shape": [1, 2]}, good[1]) == "inputs[0].shape"
    assert field(good[0] | {"data": [[1, 2], [3]]}, good[1]) == "inputs[0].data"
    assert field(good[0] | {"data": [1, 2]}, good[1]) == "inputs[0].data"
    assert field(good[0], good[1] | {"data": [1]}) == "inputs[1].data[0]"
    assert field(good[0], good[1] | {"datatype": "INT8", "data": [1]}) == "inputs[1].datatype"


def test_mlflow_answers_every_class_as_its_own_model_does(
    client: httpx.Client, settings: Settings, champion: ModelRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(settings.home))
    frame = pd.DataFrame({"spectrum": SPECTRA, "organic": [True, False]})
    unchanged = ScoringServerClient(f"millrace:{api_key(settings)}@{client.base_url.host}", client.base_url.port)
    answered = unchanged.invoke(frame)["predictions"]
    assert answered == _load_pyfunc(champion.bundle).predict(frame).to_dict(orient="records")
    assert list(answered[0]) == list(CLASSES)
