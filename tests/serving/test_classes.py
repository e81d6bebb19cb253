"""A model of three classes that takes an array, without a feature store: served, logged and refused over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from features.freshness import newest_events
from millrace.bundle import Contract, InputSpec, write_bundle
from millrace.db import Database, ModelRow
from millrace.errors import RequestError, UseCaseError
from millrace.keys import signing_key
from millrace.lake import Lake
from millrace.prediction_log import PREDICTED, TABLE, log_folder, ship
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import Label, UseCase
from serving.app import create_app
from serving.online.ages import Ages
from serving.online.model import predict_once

from .conftest import NAME, NOW, client_of, late_use_case

PATH = "/v1/late/predict"
CLASSES = ("apple", "pear", "quince")
CONTRACT = Contract(
    use_case=NAME,
    question="Which?",
    candidate="softmax",
    engine="onnx",
    inputs=(
        InputSpec("spectrum", "numeric", low=0, high=1, size=3),
        InputSpec("organic", "categorical", ("false", "true")),
    ),
    trained_as_of=NOW,
    classes=CLASSES,
)
ROW = {"trip": "T1", "carrier": "UA", "spectrum": [0.5, 2, 0], "organic": True}


def softmax_model() -> bytes:
    """The softmax of the first three columns of the matrix, a missing value counting as 0."""
    from onnx import TensorProto, helper

    first = helper.make_tensor("first", TensorProto.FLOAT, [4, 3], np.eye(4, 3).ravel())
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "X"], ["filled"]),
        helper.make_node("MatMul", ["filled", "first"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])
    p = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])
    graph = helper.make_graph(nodes, "softmax", [x], [p], [first, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def softmax(*logits: float) -> list[float]:
    powers = np.exp(logits)
    found: list[float] = (powers / powers.sum()).tolist()
    return found


@pytest.fixture
def use_case() -> UseCase:
    late = late_use_case()
    label = Label(late.label.source, "kind", timedelta(hours=6), classes=CLASSES)
    return replace(
        late, label=label, feature_repo=None, feature_tables=(), on_demand=(), request_features=("spectrum", "organic")
    )


@pytest.fixture
def champion(settings: Settings, db: Database) -> ModelRow:
    """The softmax as version 1."""
    seen = {"spectrum": [[0.0, 0.0, 0.0]], "organic": [True], "score": [1 / 3], "label": [1]}
    reference = pl.DataFrame(seen | {PREDICTED: [CLASSES[1]]})
    folder = settings.bundles / NAME / "1"
    bundle = write_bundle(
        folder, contract=CONTRACT, model=softmax_model(), reference=reference, key=signing_key(settings)
    )
    row = ModelRow(NAME, 1, "softmax", "run", str(folder), bundle.digest, NOW, NOW, "challenger")
    db.add_model(row)
    db.set_champion(NAME, 1, as_of=NOW, reason="It passed its budget.")
    return row


@pytest.fixture
def client(settings: Settings, use_case: UseCase, champion: ModelRow) -> Iterator[httpx.Client]:
    """A client of the server of that use case, with the reader that production has."""
    with client_of(create_app(settings, [use_case], clock=lambda: NOW), settings) as client:
        yield client


def predicted(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


def error(answer: httpx.Response) -> tuple[int, str]:
    assert "SECRET" not in answer.text
    assert "31337" not in answer.text
    return answer.status_code, answer.json()["error"]["field"]


def test_a_row_is_answered_with_its_most_probable_class(client: httpx.Client) -> None:
    (row,) = predicted(client.post(PATH, json={"rows": [ROW]}))
    assert list(row) == ["id", "score", "label", "flags"]
    assert (row["label"], row["score"]) == ("pear", pytest.approx(softmax(0.5, 2, 0)[1], abs=1e-6))


def test_every_probability_is_answered_when_asked_for(client: httpx.Client) -> None:
    rows = [ROW, ROW | {"spectrum": [3, 2, 0]}]
    first, second = predicted(client.post(PATH, json={"rows": rows, "scores": True, "features": True}))
    assert list(second["scores"]) == list(CLASSES)
    assert list(second["scores"].values()) == pytest.approx(softmax(3, 2, 0), abs=1e-6)
    assert (first["label"], second["label"]) == ("pear", "apple")
    assert first["features"] == {"spectrum": [0.5, 2.0, 0.0], "organic": True}
    assert first["scores"]["pear"] == first["score"]


def test_of_equally_probable_classes_the_first_is_answered(client: httpx.Client) -> None:
    (row,) = predicted(client.post(PATH, json={"rows": [ROW | {"spectrum": None, "organic": None}]}))
    assert (row["label"], row["score"]) == ("apple", pytest.approx(1 / 3))


def test_a_missing_number_of_an_array_is_missing_to_the_model(client: httpx.Client) -> None:
    (row,) = predicted(client.post(PATH, json={"rows": [ROW | {"spectrum": [1, None, 0]}], "scores": True}))
    assert list(row["scores"].values()) == pytest.approx(softmax(1, 0, 0), abs=1e-6)


def test_an_array_of_another_shape_is_refused_by_its_name(client: httpx.Client) -> None:
    wrong = {"rows[0].spectrum": [31337, 1], "rows[0].spectrum[1]": [1, "SECRET", 1]}
    for field, spectrum in wrong.items():
        assert error(client.post(PATH, json={"rows": [ROW | {"spectrum": spectrum}]})) == (422, field)


def test_a_row_without_an_input_is_refused_by_its_name(client: httpx.Client) -> None:
    answer = client.post(PATH, json={"rows": [{"trip": "T1", "organic": True}]})
    assert error(answer) == (422, "rows[0].spectrum")
    assert answer.json()["error"]["todo"] == ""


def test_what_was_predicted_is_logged_beside_its_arrays(client: httpx.Client, settings: Settings) -> None:
    predicted(client.post(PATH, json={"rows": [ROW, ROW | {"spectrum": None}]}))
    folder, lake = log_folder(settings, NAME), Lake(str(settings.home / "lake"))
    for path in folder.glob("*.log"):
        path.with_suffix(".copy").write_bytes(path.read_bytes())
        path.with_suffix(".copy").rename(folder / f"copied-{path.name}")
    assert ship(folder, lake) == 2
    logged = lake.scan(TABLE).collect()
    assert logged[PREDICTED].to_list() == ["pear", "apple"]
    assert logged["spectrum"].to_list() == [[0.5, 2.0, 0.0], None]
    assert logged.schema["spectrum"] == pl.List(pl.Float32)


def test_the_contract_tells_classes_and_the_length_of_arrays(client: httpx.Client) -> None:
    told = client.get("/v1/late/contract").json()
    assert told["classes"] == list(CLASSES)
    assert told["columns"] == {"carrier": "key", "trip": "key", "spectrum": "number[3]", "organic": "flag"}
    assert [spec.get("size") for spec in told["inputs"]] == [3, None]


def test_a_push_finds_no_view(client: httpx.Client) -> None:
    answer = client.post("/v1/late/features/recent", json={"rows": [{"carrier": "UA"}]})
    assert error(answer) == (404, "view")


def test_the_command_answers_every_probability(
    db: Database, use_case: UseCase, settings: Settings, champion: ModelRow
) -> None:
    (row,) = predict_once(db, use_case, settings, [ROW], at=NOW).predictions
    assert row.features == {"spectrum": [0.5, 2.0, 0.0], "organic": True}
    assert sum(row.scores.values()) == pytest.approx(1)  # type: ignore[union-attr]  # a row of classes has them
    with pytest.raises(RequestError, match="array"):
        predict_once(db, use_case, settings, [ROW | {"spectrum": [1]}], at=NOW)


def test_there_are_no_ages_of_views_to_ask_for(use_case: UseCase, settings: Settings) -> None:
    metrics = Metrics()
    Ages([use_case], settings, metrics=metrics, clock=lambda: NOW).refresh()
    assert b"millrace_feature_age_seconds{" not in metrics.render()
    with pytest.raises(UseCaseError, match="no feature store"):
        newest_events(use_case, settings)
