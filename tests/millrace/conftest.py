"""Small hand-made ONNX models and a signed bundle of one, for the tests of bundles, engines and the registry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.bundle import Bundle, Contract, InputSpec, write_bundle
from millrace.keys import signing_key
from millrace.registry import mlflow_client
from millrace.settings import Settings, read_settings

WEIGHTS = [0.5, -1.0]


def logistic_onnx(weights: list[float], *, external: str = "") -> bytes:
    """sigmoid(X @ weights) as an ONNX file. `external` keeps the weights outside it: those of the `graph`, of a branch
    `nested` in it, or of a `function` or an `attribute` of a node."""
    from onnx import TensorProto, helper

    inside = helper.make_tensor("W", TensorProto.FLOAT, [len(weights), 1], weights)
    outside = helper.make_tensor("W", TensorProto.FLOAT, [len(weights), 1], weights)
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    last = helper.make_tensor("last", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["product"]),
        helper.make_node("Squeeze", ["product", "last"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    if external == "attribute":
        nodes.append(helper.make_node("Constant", [], ["unused"], value=outside))
    if external == "nested":
        value = helper.make_tensor_value_info("W", TensorProto.FLOAT, None)
        branch = helper.make_graph([], "branch", [], [value], [outside])
        nodes.append(helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch))
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(weights)])
    p = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])
    graph = helper.make_graph(nodes, "logistic", [x], [p], [outside if external == "graph" else inside, last])
    functions: list[Any] = []
    if external == "function":
        constant = helper.make_node("Constant", [], ["c"], value=outside)
        functions = [helper.make_function("ours", "F", [], ["c"], [constant], [helper.make_opsetid("", 18)])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions).SerializeToString())


@pytest.fixture(scope="session")
def onnx_model() -> Callable[..., bytes]:
    """`logistic_onnx`."""
    return logistic_onnx


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made, which costs seconds, to copy for each test."""
    settings = read_settings(home=tmp_path_factory.mktemp("mlflow"))
    mlflow_client(settings)
    return settings.home / "mlflow.db"


@pytest.fixture
def contract() -> Contract:
    """Two numeric inputs, a and b."""
    inputs = tuple(InputSpec(name, "numeric", low=-1.0, high=1.0) for name in "ab")
    return Contract("late", "Late?", "logistic", "onnx", inputs, datetime(2013, 4, 1, tzinfo=UTC))


@pytest.fixture
def reference() -> pl.DataFrame:
    """Twenty hold-out rows with scores and labels."""
    rows = [(index / 20, 0.1, 0.5, index % 2, "not an input") for index in range(20)]
    return pl.DataFrame(rows, schema=["a", "b", "score", "label", "other"], orient="row")


@pytest.fixture
def bundle(tmp_path: Path, settings: Settings, contract: Contract, reference: pl.DataFrame) -> Bundle:
    """A bundle of sigmoid(0.5 a - b), signed with the test's own key."""
    key = signing_key(settings)
    return write_bundle(
        tmp_path / "bundle", contract=contract, model=logistic_onnx(WEIGHTS), reference=reference, key=key
    )
