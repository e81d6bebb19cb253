"""From a fitted model to the bytes that serve: ONNX when it proves equal, else the native engine with the reason.

Equal means: the engine that will serve gives the fitted model's probabilities to 1e-5 on up to 10,000 real rows and on
edge rows (all missing, unseen categories, extremes). The gate is not optional: a converter can be silently wrong.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from millrace.contract import InputSpec
from millrace.engine import Engine, load_engine
from millrace.errors import BundleError, TrainingError, first_line
from training.fit import Classifier
from training.torch_fit import TorchClassifier

if TYPE_CHECKING:
    import onnx

Matrix = NDArray[np.float32]

TOLERANCE = 1e-5
PARITY_ROWS = 10_000
_OPSETS = {"": 18, "ai.onnx.ml": 3}
_FAR = 1e9


@dataclass(frozen=True, slots=True)
class Exported:
    """The model as bytes, the engine that runs them, and how far it is from the fitted model on the parity rows.

    `reason` says why the engine is not ONNX, and is empty when it is.
    """

    kind: Literal["onnx", "skops"]
    model: bytes
    engine: Engine
    difference: float
    reason: str = ""


def export(name: str, model: Classifier, inputs: Sequence[InputSpec], X: Matrix, *, threads: int = 1) -> Exported:
    """Export `model`, proven equal on rows of X (rows, inputs) and on edge rows.

    `name` is the candidate's, for errors. Raises `TrainingError` when no engine gives the model's probabilities.
    """
    rows = parity_rows(inputs, X)
    expected = np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)
    if not np.isfinite(expected).all():
        raise TrainingError(
            f"The candidate {name!r} gives no probability for {np.isnan(expected).sum()} of {len(rows)} rows.",
            looked="Among them are rows with every input missing, unseen categories and extreme numbers.",
            todo="Let it handle missing values (an imputer in the pipeline, or NaN inside the module).",
        )
    failures: list[str] = []
    for kind, convert in _ways(model, len(inputs)):
        try:
            found = _proven(kind, convert(), rows, expected, threads)
        except Exception as error:  # converters raise whatever stands in their way, and the reason is kept
            failures.append(f"{convert.__name__.strip('_')}: {first_line(error)}")
        else:
            return found if kind == "onnx" else replace(found, reason=" ".join(failures))
    raise TrainingError(
        f"The candidate {name!r} can be served by no engine.",
        looked=f"Tried {'; '.join(failures)}",
        todo="Build it of parts that export to ONNX; a pickle is never loaded.",
    )


def parity_rows(inputs: Sequence[InputSpec], X: Matrix) -> Matrix:
    """Up to 10,000 rows of X, evenly spread, then the edges.

    Edges: everything missing; then, in the middle row of X, each input in turn missing (or unseen), and each numeric
    one at, just beyond and far beyond what training saw.
    """
    chosen = X[np.linspace(0, len(X) - 1, min(len(X), PARITY_ROWS)).astype(int)]
    missing = np.array([_missing(spec) for spec in inputs], dtype=np.float32)
    edges = [missing]
    for position, spec in enumerate(inputs):
        values = [float(missing[position])]
        if spec.kind == "numeric" and not spec.always_missing:
            values += [spec.low, spec.high, spec.low - 1, spec.high + 1, -_FAR, _FAR]
        for value in values:
            row = X[len(X) // 2].copy()
            row[position] = value
            edges.append(row)
    return np.ascontiguousarray(np.vstack([chosen, np.array(edges, dtype=np.float32)]))


def _missing(spec: InputSpec) -> float:
    if spec.always_missing:
        return 0.0
    return np.nan if spec.kind == "numeric" else len(spec.categories)


def _ways(model: Any, width: int) -> list[tuple[Literal["onnx", "skops"], Callable[[], bytes]]]:
    """How the model can become bytes, the preferred way first.

    An ONNX model takes a float32 matrix (rows, `width`); a network's gives (rows,), an estimator's (rows, 2). Tracing a
    network costs 0.4 s, torch's newer exporter 11 s (its imports, once a process) and 2 s each, so it comes second;
    what tracing gets wrong, such as a branch on the data, the parity gate finds.
    """

    def trace() -> bytes:
        return _trace(model, width)

    def torch_export() -> bytes:
        return _torch_export(model, width)

    def skl2onnx() -> bytes:
        return _skl2onnx(model, width)

    def skops() -> bytes:
        from skops.io import dumps

        return bytes(dumps(model))

    if isinstance(model, TorchClassifier):
        return [("onnx", trace), ("onnx", torch_export)]
    return [("onnx", skl2onnx), ("skops", skops)]


def _proven(
    kind: Literal["onnx", "skops"], model: bytes, rows: Matrix, expected: NDArray[np.float64], threads: int
) -> Exported:
    engine = load_engine(kind, model, inputs=rows.shape[1], threads=threads)
    differences = np.abs(engine.predict(rows) - expected)
    worst = float(np.max(differences, initial=0.0))
    if not worst <= TOLERANCE:
        wrong = int((~(differences <= TOLERANCE)).sum())
        raise BundleError(f"{wrong} of {len(rows)} rows differ from the fitted model, by up to {worst:.2g}.")
    return Exported(kind, model, engine, worst)


def _skl2onnx(model: Any, width: int) -> bytes:
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    with _mended_tree_nodes():
        graph: onnx.ModelProto = skl2onnx.to_onnx(
            model,
            initial_types=[("X", FloatTensorType([None, width]))],
            options={"zipmap": False},
            target_opset=_OPSETS,
        )
    outputs = graph.graph.output
    for output in [output for output in outputs if output.name != "probabilities"]:
        outputs.remove(output)
    return bytes(graph.SerializeToString())


@contextmanager
def _mended_tree_nodes() -> Iterator[None]:
    """In the body, the tree converter mends two things of HistGradientBoosting's nodes (skl2onnx 1.20).

    Their numpy booleans, which onnx refuses, become plain integers. Their thresholds, which are float64, become the
    largest float32 that is no greater: rounded to the nearest instead, 1 row in 10,000 took the other branch.
    """
    from skl2onnx.common import tree_ensemble

    original = tree_ensemble.add_node

    def add_node(*positional: Any, nodes_missing_value_tracks_true: Any = 0, **named: Any) -> None:
        named["adjust_threshold_for_sklearn"] = True
        original(*positional, nodes_missing_value_tracks_true=int(nodes_missing_value_tracks_true), **named)

    tree_ensemble.add_node = add_node
    try:
        yield
    finally:
        tree_ensemble.add_node = original


def _trace(model: TorchClassifier, width: int) -> bytes:
    import torch

    file, example = io.BytesIO(), torch.zeros(8, width)
    with _quiet_exporter():
        torch.onnx.export(
            torch.nn.Sequential(model.module, torch.nn.Sigmoid()).eval(),
            (example,),
            file,
            dynamo=False,
            input_names=["X"],
            output_names=["probability"],
            dynamic_axes={"X": {0: "rows"}, "probability": {0: "rows"}},
            opset_version=_OPSETS[""],
        )
    return file.getvalue()


def _torch_export(model: TorchClassifier, width: int) -> bytes:
    import torch

    example = torch.zeros(8, width)  # a size of 1 would be taken for a constant
    with _quiet_exporter():
        program = torch.onnx.export(
            torch.nn.Sequential(model.module, torch.nn.Sigmoid()).eval(),
            (example,),
            dynamo=True,
            input_names=["X"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("rows", min=1)},),
            opset_version=_OPSETS[""],
            verbose=False,
        )
    return bytes(program.model_proto.SerializeToString())


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Torch's exporters warn of their own deprecations and of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
