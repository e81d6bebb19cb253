"""A model in 8 bits: ONNX Runtime's static quantization of the ONNX model that serves, calibrated on fit rows.

It knows ONNX models and rows; it does not know what the network was before. The result is not gated on being equal to
the float model, which it is not: how far it is from it is recorded, and the gate judges it as a model of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.engine import load_engine
from millrace.errors import BundleError, TrainingError, first_line
from training.export import Exported, parity_rows
from training.made import Rows

_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BETWEEN = ("Relu", "MaxPool", "Reshape", "Flatten", "Transpose")
"""What stands between layers with weights and runs on 8 bits as it is. No other operation is quantized: with all that
ONNX Runtime offers, the last softmax among them, the log loss of a small CNN on digits rose from 0.061 to 0.088; with
these it was 0.062, at the same size and speed."""
_BATCH = 128


def quantized(exported: Exported, rows: Rows, most: int) -> tuple[Exported, dict[str, Any]]:
    """The model of `exported` in 8 bits, calibrated on up to `most` of the fit rows, evenly spread.

    `difference` of what is returned is the worst |8 bits − float| on the parity rows. When calibration fails, the
    weights of the linear layers alone are in 8 bits and activations are quantized as they come ("dynamic"); the notes
    say why. Convolutions stay as they are then: on two cores a CNN's 100 rows took 12 ms that way, 0.5 ms in float.
    Raises `TrainingError` when there is no layer to quantize or no way gives probabilities.
    """
    _check_has_weights(exported)
    chosen = np.linspace(0, len(rows.X) - 1, min(len(rows.X), most)).astype(int)
    ways: list[tuple[str, Callable[[], bytes]]] = [
        ("static", lambda: _static(exported.model, rows.X[chosen])),
        ("dynamic", lambda: _dynamic(exported.model)),
    ]
    failures: list[str] = []
    for way, quantize in ways:
        try:
            found = _proven(quantize(), exported, rows)
        except Exception as error:  # the quantizer raises whatever stands in its way, and the reason is kept
            failures.append(f"{way}: {first_line(error)}")
            continue
        notes = {"int8": way, "calibration_rows": len(chosen) if way == "static" else 0}
        notes |= {"difference_from_float": found.difference, "bytes": len(found.model)}
        notes |= {"bytes_of_float": len(exported.model)}
        return found, notes | ({"int8_not_static_because": " ".join(failures)} if failures else {})
    raise TrainingError(
        "No quantization of it gives usable probabilities.",
        looked=f"Tried {'; '.join(failures)}",
        todo="Leave Int8() away.",
    )


def _check_has_weights(exported: Exported) -> None:
    if exported.kind != "onnx":
        raise TrainingError(
            f"Only an ONNX model can be quantized, and this one is served by {exported.kind}.",
            looked=exported.reason,
            todo="Leave Int8() away, or build the module of parts that export to ONNX.",
        )
    kinds = {node.op_type for node in _graph(exported.model).graph.node}
    if not kinds & set(_WITH_WEIGHTS):
        raise TrainingError(
            "It has no layer that can be quantized.",
            looked=f"Its operations are {', '.join(sorted(kinds))}; wanted is one of {', '.join(_WITH_WEIGHTS)}.",
            todo="Leave Int8() away.",
        )


def _static(model: bytes, X: NDArray[np.float32]) -> bytes:
    """Weights and activations in 8 bits by the extremes that calibration saw.

    What a linear layer gives stays float, as does what the last one gives, which probabilities are made of: the next
    layer quantizes what it takes itself.
    """
    from onnxruntime.quantization import quantize_static

    graph = _graph(model)
    reader = _reader(graph.graph.input[0].name, X)
    options = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}
    kinds = [*_WITH_WEIGHTS, *_BETWEEN]

    def quantize(file: Path) -> None:
        quantize_static(graph, file, reader, op_types_to_quantize=kinds, extra_options=options)

    return _written(quantize)


def _dynamic(model: bytes) -> bytes:
    from onnxruntime.quantization import quantize_dynamic

    def quantize(file: Path) -> None:
        quantize_dynamic(_graph(model), file, op_types_to_quantize=["Gemm", "MatMul"])

    found = _written(quantize)
    if len(found) >= len(model):
        raise BundleError("it has no linear layer that would become smaller")
    return found


def _proven(model: bytes, exported: Exported, rows: Rows) -> Exported:
    """What serves the quantized model, when it gives probabilities on rows of X and on edge rows."""
    checked = parity_rows(rows.inputs, rows.X)
    width, threads = rows.X.shape[1], rows.hardware.threads
    engine = load_engine("onnx", model, width=width, classes=rows.classes, threads=threads)
    scores = engine.predict(checked)
    possible = np.isfinite(scores) & (scores >= 0) & (scores <= 1)
    if not possible.all():
        wrong = int((~possible).reshape(len(checked), -1).any(axis=1).sum())
        raise BundleError(f"it gives no probability for {wrong} of {len(checked)} rows")
    difference = float(np.max(np.abs(scores - exported.engine.predict(checked)), initial=0.0))
    return Exported("onnx", model, engine, difference)


def _reader(name: str, X: NDArray[np.float32]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the runtime ships no types
        """The rows in batches, then None."""

        def __init__(self, batches: Sequence[NDArray[np.float32]]) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    return Reader([X[start : start + _BATCH] for start in range(0, len(X), _BATCH)])


def _graph(model: bytes) -> Any:
    import onnx

    return onnx.load_from_string(model)


def _written(quantize: Callable[[Path], None]) -> bytes:
    """What the quantizer, which knows files only, writes; nothing of it stays on the disk."""
    with TemporaryDirectory(prefix="millrace-int8-") as folder, _quiet():
        file = Path(folder) / "model.onnx"
        quantize(file)
        return file.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer recommends a preparation, which the exporter has done (constants are folded).

    It does so by `logging.warning`, which gives a root logger without handlers one of its own that stays; so there is
    one meanwhile.
    """
    root, silent = logging.getLogger(), logging.NullHandler()

    def ours(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root.addHandler(silent)
    root.addFilter(ours)
    try:
        yield
    finally:
        root.removeFilter(ours)
        root.removeHandler(silent)
