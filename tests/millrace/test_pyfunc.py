"""A registered bundle is an ordinary MLflow model: it loads by alias, predicts what we serve, and is verified first."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from millrace.bundle import Bundle, open_bundle, write_bundle
from millrace.contract import Contract
from millrace.db import Database
from millrace.engine import open_engine
from millrace.errors import BundleError, RequestError
from millrace.inputs import describe_inputs
from millrace.keys import public_key, signing_key
from millrace.registry import experiment_id, log_model_files, mlflow_client, promote, register
from millrace.settings import Settings, child_environment, read_settings

T0 = datetime(2013, 4, 1, tzinfo=UTC)
WEIGHTS = [[0.5], [-0.1], [0.7], [-1.0]]
ROWS = pl.DataFrame(
    {
        "delay": [1.5, -2.0, None, 0.25],
        "hour": [3, 14, 23, 0],
        "carrier": ["AA", "UA", None, "ZZ"],
        "rain": [True, False, None, True],
        "score": [0.5, 0.5, 0.5, 0.5],
        "label": [0, 1, 0, 1],
    }
)


class Run:
    """A run of MLflow's, written to directly."""

    def __init__(self, settings: Settings, use_case: str) -> None:
        self.client = mlflow_client(settings)
        self.id = self.client.create_run(experiment_id(self.client, settings, use_case)).info.run_id

    def log_folder(self, folder: Path, name: str) -> None:
        self.client.log_artifacts(self.id, str(folder), name)


def imputing_onnx(weights: list[list[float]]) -> bytes:
    """softmax(X @ weights), or with one column sigmoid, as an ONNX file; what is missing in X counts as 0."""
    from onnx import TensorProto, helper

    inputs, outputs = len(weights), len(weights[0])
    shape = [None] if outputs == 1 else [None, outputs]
    flat = [value for row in weights for value in row]
    nodes = [
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "X"], ["given"]),
        helper.make_node("MatMul", ["given", "W"], ["product"]),
        helper.make_node("Squeeze", ["product", "last"], ["logit"]) if outputs == 1 else None,
        helper.make_node("Sigmoid", ["logit"], ["p"])
        if outputs == 1
        else helper.make_node("Softmax", ["product"], ["p"]),
    ]
    constants = [
        helper.make_tensor("W", TensorProto.FLOAT, [inputs, outputs], flat),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
    ]
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, inputs])
    p = helper.make_tensor_value_info("p", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node for node in nodes if node], "imputing", [x], [p], constants)
    opsets = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def serve_by_alias(settings: Settings, contract: Contract, model: bytes, reference: pl.DataFrame) -> Bundle:
    """Register a model of `contract` as MLflow's and ours, and let it serve."""
    db, run = Database.open(settings), Run(settings, contract.use_case)
    staged = settings.folder("staging") / run.id
    bundle = write_bundle(staged, contract=contract, model=model, reference=reference, key=signing_key(settings))
    log_model_files(run, bundle, ["numpy==2.4.6", "onnxruntime==1.31.1"])
    told: dict[str, Any] = {"as_of": T0, "quality": {}, "cost": {}, "verdict": {}}
    row = register(settings, db, bundle, run_id=run.id, status="challenger", **told)
    promote(settings, db, contract.use_case, row.version, as_of=T0, reason="first")
    db.close()
    return open_bundle(Path(row.bundle), public_key=public_key(settings))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Settings]:
    """A platform that MLflow's own functions and the loader use, as an operator's shell would tell them."""
    settings = read_settings(home=tmp_path_factory.mktemp("pyfunc"))
    shutil.copy(mlflow_template, settings.home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(settings.home))
        mlflow.set_tracking_uri(settings.mlflow)
        yield settings
    mlflow.set_tracking_uri("")


@pytest.fixture(scope="module")
def bundle(home: Settings) -> Bundle:
    """The champion of `late`: numbers with and without fractions, a text and a flag."""
    features = [name for name in ROWS.columns if name not in ("score", "label")]
    contract = Contract("late", "Late?", "logistic", "onnx", describe_inputs(ROWS, features), T0)
    return serve_by_alias(home, contract, imputing_onnx(WEIGHTS), ROWS)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Any:
    """The champion as anybody with MLflow loads it."""
    return mlflow.pyfunc.load_model("models:/late@champion")


def served(bundle: Bundle, rows: pl.DataFrame) -> list[float]:
    """What our servers answer."""
    contract = bundle.contract
    return open_engine(bundle).predict(contract.encode_rows(rows.select(contract.names).rows())).tolist()


def test_a_champion_loads_by_its_alias_and_answers_what_is_served(model: Any, bundle: Bundle) -> None:
    answer = model.predict(ROWS.fill_nan(None).to_pandas())
    assert list(answer.columns) == ["score"]
    assert answer["score"].tolist() == served(bundle, ROWS)


def test_neither_the_order_of_columns_nor_further_ones_matter_and_the_index_stays(model: Any, bundle: Bundle) -> None:
    rows = ROWS.select(reversed(ROWS.columns)).to_pandas().assign(more="x").set_index(pd.Index(list("abcd")))
    answer = model.predict(rows)
    assert answer["score"].tolist() == served(bundle, ROWS)
    assert list(answer.index) == list("abcd")


@pytest.mark.parametrize("delay", [2, 2.0, np.float32(2), None, float("nan")])
def test_one_row_typed_by_hand_is_answered_whatever_pandas_makes_of_it(model: Any, bundle: Bundle, delay: Any) -> None:
    row = {"delay": delay, "hour": 7, "carrier": None, "rain": None}
    same = pl.DataFrame(
        [row | {"delay": None if delay is None else float(delay)}], schema_overrides={"rain": pl.Boolean}
    )
    assert model.predict(pd.DataFrame([row]))["score"].tolist() == served(bundle, same.fill_nan(None))


def test_nullable_and_categorical_columns_of_pandas_are_taken(model: Any, bundle: Bundle) -> None:
    rows = ROWS.drop("score", "label").to_pandas().assign(carrier=["AA", "UA", None, "ZZ"])
    rows = rows.astype({"delay": "Float64", "hour": "Int64", "rain": "boolean"})
    assert model.predict(rows)["score"].tolist() == served(bundle, ROWS)


def test_a_column_that_is_not_there_is_named(model: Any) -> None:
    with pytest.raises(MlflowException, match="missing inputs \\['hour'\\]"):
        model.predict(ROWS.drop("hour").to_pandas())


def test_a_value_of_the_wrong_type_is_refused_by_name(model: Any) -> None:
    with pytest.raises(RequestError, match="hour must be a number") as refused:
        model.predict(ROWS.to_pandas().assign(hour="noon"))
    assert refused.value.field == "hour"


def test_no_rows_give_no_answers(model: Any) -> None:
    assert model.predict(ROWS.head(0).to_pandas()).shape == (0, 1)


def test_a_model_of_several_outcomes_answers_a_column_each(home: Settings) -> None:
    rows = pl.DataFrame(
        {"image": [[1.0, 0.0], [0.5, -2.0]], "score": [0.5, 0.5], "label": [0, 2], "predicted": ["one", "two"]}
    )
    inputs = describe_inputs(rows, ["image"])
    contract = Contract("digits", "Which?", "cnn", "onnx", inputs, T0, classes=("zero", "one", "two"))
    found = serve_by_alias(home, contract, imputing_onnx([[1.0, 0.0, -1.0], [0.5, 0.0, 2.0]]), rows)
    loaded = mlflow.pyfunc.load_model("models:/digits@champion")
    images = [np.array([1, 0]), [0.5, -2.0]]
    answer = loaded.predict(pd.DataFrame({"image": images}))
    assert list(answer.columns) == ["zero", "one", "two"]
    assert answer.to_numpy().tolist() == served(found, rows)


def test_the_signature_tells_inputs_and_outputs(model: Any) -> None:
    assert model.metadata.get_input_schema().input_names() == ["delay", "hour", "carrier", "rain"]
    assert model.metadata.get_output_schema().to_dict() == [{"type": "double", "name": "score", "required": True}]


def test_the_metadata_name_the_bundle_and_what_it_was_fitted_on(model: Any, bundle: Bundle) -> None:
    told = model.metadata.metadata
    assert told["millrace_digest"] == bundle.digest
    assert told["inputs"]["hour"] == {"kind": "number", "low": 0.0, "high": 23.0}


def artifacts(home: Settings) -> Path:
    """The folder of the champion's artifacts."""
    client = mlflow_client(home)
    return Path(client.get_model_version_by_alias("late", "champion").source.removeprefix("file://"))


@pytest.mark.usefixtures("bundle")
def test_the_weights_are_stored_once_beside_what_mlflow_wants(home: Settings) -> None:
    folder = artifacts(home)
    assert {"MLmodel", "bundle", "python_env.yaml", "requirements.txt"} <= {path.name for path in folder.iterdir()}
    assert [path.parent.name for path in folder.rglob("model.onnx")] == ["bundle"]


@pytest.mark.usefixtures("bundle")
def test_the_requirements_are_those_that_were_given(home: Settings) -> None:
    lines = (artifacts(home) / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == ["millrace", "numpy", "onnxruntime"]


@pytest.mark.usefixtures("bundle")
def test_one_flipped_bit_in_the_artifact_and_mlflow_loads_nothing(home: Settings) -> None:
    path = artifacts(home) / "bundle" / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    try:
        with pytest.raises(BundleError, match="damaged"):
            mlflow.pyfunc.load_model("models:/late@champion")
    finally:
        path.write_bytes(whole)


@pytest.mark.usefixtures("bundle")
def test_where_our_key_is_not_mlflow_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(BundleError, match="no key here"):
        mlflow.pyfunc.load_model("models:/late@champion")
    assert not (tmp_path / "elsewhere").exists()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def scoring_server(home: Settings, bundle: Bundle, tmp_path: Path) -> Iterator[httpx.Client]:
    """`mlflow models serve` of the champion, in a process of its own."""
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    command += ["--model-uri", "models:/late@champion", "--host", "127.0.0.1", "--port", str(port)]
    activated = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls `uvicorn` by name
    environment = child_environment(home) | {"MLFLOW_TRACKING_URI": home.mlflow, "PATH": activated}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=tmp_path
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_for(client, process, log)
            yield client
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1_200):
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/ping").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the scoring server does not answer: {log.read_text()}")


def test_mlflow_serves_it_as_any_other_model(scoring_server: httpx.Client, bundle: Bundle) -> None:
    names = bundle.contract.names
    rows = [dict(zip(names, row, strict=True)) for row in ROWS.select(names).rows()]
    answer = scoring_server.post("/invocations", json={"dataframe_records": rows})
    assert [one["score"] for one in answer.json()["predictions"]] == served(bundle, ROWS)
    refused = scoring_server.post("/invocations", json={"dataframe_records": [rows[0] | {"hour": "noon"}]})
    assert (refused.status_code, "hour must be a number" in json.dumps(refused.json())) == (400, True)
