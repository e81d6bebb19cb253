"""Models in 8 bits: smaller, close to the float model, and nothing left behind."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from millrace import Int8
from millrace.errors import TrainingError
from training.export import Exported, export
from training.fit import Fitted
from training.made import Made, Rows
from training.variants import int8
from training.variants.int8 import quantized

Make = Callable[..., list[Made]]
Served = tuple[Fitted, Exported]


@pytest.fixture(scope="module")
def made(cnn_made_of: Make) -> Made:
    """`cnn` in 8 bits."""
    return cnn_made_of(Int8(rows=300))[0]


def kinds(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def test_the_layers_take_8_bits(made: Made) -> None:
    graph = onnx.load_from_string(made.exported.model).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds(made.exported.model))
    stored = {one.data_type for one in graph.initializer if len(one.dims) >= 2}
    assert stored == {onnx.TensorProto.INT8}


def test_the_probabilities_are_made_in_float(made: Made) -> None:
    assert kinds(made.exported.model)[-2:] == ["Gemm", "Softmax"]


def test_it_says_as_the_float_model_does(made: Made, cnn_fitted: Served, cnn_rows: Rows) -> None:
    float_scores, scores = (one.engine.predict(cnn_rows.X) for one in (cnn_fitted[1], made.exported))
    assert (float_scores.argmax(1) == scores.argmax(1)).mean() > 0.97
    assert 0 < np.abs(float_scores - scores).max() <= made.exported.difference < 0.3


def test_its_notes_say_how_it_was_made(made: Made, cnn_fitted: Served) -> None:
    notes = dict(made.notes or {})
    assert (notes["int8"], notes["calibration_rows"]) == ("static", 300)
    assert notes["difference_from_float"] == made.exported.difference
    assert (notes["bytes"], notes["bytes_of_float"]) == (len(made.exported.model), len(cnn_fitted[1].model))


def test_calibration_takes_all_rows_when_there_are_fewer(cnn_fitted: Served, cnn_rows: Rows) -> None:
    assert quantized(cnn_fitted[1], cnn_rows, 10**6)[1]["calibration_rows"] == len(cnn_rows.X)


@pytest.fixture(scope="module")
def wide(cnn_rows: Rows) -> tuple[Exported, Rows]:
    """A linear network large enough to become smaller, as it serves, and its rows, none of them missing."""
    import torch

    from training.network import TorchClassifier

    class Whole(torch.nn.Module):
        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return torch.where(X.isnan(), 0.0, X).clamp(-5, 5)

    layers = Whole(), torch.nn.Linear(16, 256), torch.nn.ReLU(), torch.nn.Linear(256, 3)
    model = TorchClassifier(torch.nn.Sequential(*layers).eval(), {})
    return export("wide", model, cnn_rows.inputs, cnn_rows.X, classes=3), cnn_rows


def test_a_larger_model_becomes_smaller(wide: tuple[Exported, Rows]) -> None:
    exported, rows = wide
    assert len(quantized(exported, rows, 100)[0].model) < 0.5 * len(exported.model)


def test_without_calibration_the_linear_layers_are_quantized_and_the_notes_say_why(
    monkeypatch: pytest.MonkeyPatch, wide: tuple[Exported, Rows]
) -> None:
    def fails(model: bytes, X: Any) -> bytes:
        raise ValueError("no extremes")

    monkeypatch.setattr(int8, "_static", fails)
    exported, rows = wide
    found, notes = quantized(exported, rows, 100)
    assert (notes["int8"], notes["calibration_rows"]) == ("dynamic", 0)
    assert "no extremes" in notes["int8_not_static_because"]
    assert "DynamicQuantizeLinear" in kinds(found.model)
    assert len(found.model) < 0.5 * len(exported.model)


def test_probabilities_that_are_none_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, wide: tuple[Exported, Rows]
) -> None:
    """A model of logits, which are no probabilities, stands for what a quantizer may spoil."""
    exported, rows = wide
    graph = onnx.load_from_string(exported.model)
    last = graph.graph.node.pop()
    graph.graph.output[0].name = last.input[0]
    monkeypatch.setattr(int8, "_static", lambda model, X: graph.SerializeToString())
    _, notes = quantized(exported, rows, 100)
    assert notes["int8"] == "dynamic"
    assert "gives no probability for" in notes["int8_not_static_because"]


def test_when_no_way_gives_probabilities_both_are_told(
    monkeypatch: pytest.MonkeyPatch, net_fitted: Served, net_rows: Rows
) -> None:
    monkeypatch.setattr(int8, "_static", lambda model, X: b"no model")
    with pytest.raises(TrainingError, match=r"static: .*dynamic: "):
        quantized(net_fitted[1], net_rows, 100)


def test_a_model_that_is_not_onnx_is_refused(net_fitted: Served, net_rows: Rows) -> None:
    with pytest.raises(TrainingError, match=r"served by skops"):
        quantized(replace(net_fitted[1], kind="skops", reason="No converter."), net_rows, 100)


def test_a_model_without_layers_is_refused(net_rows: Rows) -> None:
    import torch

    from training.network import TorchClassifier

    class Scaled(torch.nn.Module):
        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return 0.5 * torch.where(X.isnan(), 0.0, X)[:, 0]

    exported = export("scaled", TorchClassifier(Scaled().eval(), {}), net_rows.inputs, net_rows.X)
    with pytest.raises(TrainingError, match=r"no layer that can be quantized. Its operations are .*Sigmoid"):
        quantized(exported, net_rows, 100)


def test_the_root_logger_stays_as_it_is(net_fitted: Served, net_rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        quantized(net_fitted[1], net_rows, 100)
        assert (root.handlers, root.filters) == ([], [])
    finally:
        root.handlers = handlers
    assert capsys.readouterr().err == ""


def test_nothing_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net_fitted: Served, net_rows: Rows
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    quantized(net_fitted[1], net_rows, 100)
    assert list(tmp_path.iterdir()) == []
