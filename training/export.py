"""From a fitted model to the bytes that serve: ONNX when it proves equal, else the native engine with the reason.

Equal means: the engine that will serve gives the fitted model's probabilities to 1e-5 on up to 10,000 real rows and on
edge rows (all missing, unseen categories, extremes). The gate is not optional: a converter can be silently wrong.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from millrace.engine import Engine, load_engine
from millrace.errors import BundleError, TrainingError, first_line
from millrace.inputs import InputSpec
from training.fit import Classifier
from training.network import TorchClassifier

if TYPE_CHECKING:
    import onnx
    import torch

Matrix = NDArray[np.float32]
Kind = Literal["onnx", "skops", "torch"]

TOLERANCE = 1e-5
PARITY_ROWS = 10_000
_OPSETS = {"": 18, "ai.onnx.ml": 3}
_FAR = 1e9


@dataclass(frozen=True, slots=True)
class Exported:
    """The model as bytes, the engine that runs them, and how far it is from the fitted model on the parity rows.

    `reason` says why the engine is not ONNX, and is empty when it is.
    """

    kind: Kind
    model: bytes
    engine: Engine
    difference: float
    reason: str = ""


def export(
    name: str,
    model: Classifier,
    inputs: Sequence[InputSpec],
    X: Matrix,
    *,
    classes: int = 0,
    threads: int = 1,
    declared: bool = True,
) -> Exported:
    """Export `model`, proven equal on rows of X (rows, width) and on edge rows.

    A network falls back on its weights when it is `declared`: when the use case's own code builds it again.

    `name` is the candidate's, for errors. Raises `TrainingError` when no engine gives the model's probabilities.
    """
    rows = parity_rows(inputs, X)
    expected = _probabilities(name, model, rows, classes)
    unknown = ~np.isfinite(expected.reshape(len(rows), -1)).all(axis=1)
    if unknown.any():
        raise TrainingError(
            f"The candidate {name!r} gives no probability for {unknown.sum()} of {len(rows)} rows.",
            looked="Among them are rows with every input missing, unseen categories and extreme numbers.",
            todo="Let it handle missing values (an imputer in the pipeline, or NaN inside the module).",
        )
    failures: list[str] = []
    for kind, convert in _ways(model, X.shape[1], declared=declared):
        try:
            content = convert()
            engine = _engine(kind, content, model, width=X.shape[1], classes=classes, threads=threads)
            found = Exported(kind, content, engine, _difference(engine, rows, expected))
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
    one at, just beyond and far beyond what training saw (an array in all of its places).
    """
    chosen = X[np.linspace(0, len(X) - 1, min(len(X), PARITY_ROWS)).astype(int)]
    columns = [spec for spec in inputs for _ in range(spec.size)]
    missing = np.array([_missing(spec) for spec in columns], dtype=np.float32)
    edges, position = [missing], 0
    for spec in inputs:
        places = slice(position, position + spec.size)
        position += spec.size
        values = [_missing(spec)]
        if spec.kind == "numeric" and not spec.always_missing:
            values += [spec.low, spec.high, spec.low - 1, spec.high + 1, -_FAR, _FAR]
        for value in values:
            row = X[len(X) // 2].copy()
            row[places] = value
            edges.append(row)
    return np.ascontiguousarray(np.vstack([chosen, np.array(edges, dtype=np.float32)]))


def _probabilities(name: str, model: Classifier, rows: Matrix, classes: int) -> NDArray[np.float64]:
    """What the fitted model itself says: (rows,) of outcome 1, or (rows, classes)."""
    try:
        found = np.asarray(model.predict_proba(rows), dtype=np.float64)
    except Exception as error:  # a candidate is the user's code, and so is what it raises
        raise TrainingError(
            f"The candidate {name!r} cannot predict every row: {first_line(error)}.",
            looked="Among the rows are some with every input missing, unseen categories and extreme numbers.",
            todo="Let it handle missing values (an imputer in the pipeline, or NaN inside the module).",
        ) from error
    if found.shape != (len(rows), classes or 2):
        raise TrainingError(
            f"The candidate {name!r} gives {found.shape[-1]} probabilities a row; {classes or 2} are wanted.",
            looked="A class that the rows to fit on never show gets none from scikit-learn.",
            todo="Train on a longer stretch: training=Training(history=…).",
        )
    return found if classes else found[:, 1]


def _missing(spec: InputSpec) -> float:
    if spec.always_missing:
        return 0.0
    return np.nan if spec.kind == "numeric" else len(spec.categories)


def _ways(model: Any, width: int, *, declared: bool) -> list[tuple[Kind, Callable[[], bytes]]]:
    """How the model can become bytes, the preferred way first.

    An ONNX model takes a float32 matrix (rows, `width`); it gives (rows,) or (rows, classes). Tracing a
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

    def weights() -> bytes:
        from safetensors.torch import save

        state = model.module.state_dict()  # cloned, since shared tensors are refused
        return bytes(save({name: value.contiguous().clone() for name, value in state.items()}))

    if isinstance(model, TorchClassifier):
        native: list[tuple[Kind, Callable[[], bytes]]] = [("torch", weights)] if declared else []
        return [("onnx", trace), ("onnx", torch_export), *native]
    return [("onnx", skl2onnx), ("skops", skops)]


def _engine(kind: Kind, content: bytes, model: Any, *, width: int, classes: int, threads: int) -> Engine:
    if kind != "torch":
        return load_engine(kind, content, width=width, classes=classes, threads=threads)
    from millrace.torch_engine import TorchEngine

    return TorchEngine(content, copy.deepcopy(model.module), classes=classes, threads=threads)


def _difference(engine: Engine, rows: Matrix, expected: NDArray[np.float64]) -> float:
    """How far the engine is from the fitted model at worst; `BundleError` when that is beyond the tolerance."""
    differences = np.abs(engine.predict(rows) - expected).reshape(len(rows), -1).max(axis=1)
    worst = float(np.max(differences, initial=0.0))
    if not worst <= TOLERANCE:
        wrong = int((~(differences <= TOLERANCE)).sum())
        raise BundleError(f"{wrong} of {len(rows)} rows differ from the fitted model, by up to {worst:.2g}.")
    return worst


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
            _with_probabilities(model, example),
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
            _with_probabilities(model, example),
            (example,),
            dynamo=True,
            input_names=["X"],
            output_names=["probability"],
            dynamic_shapes=({0: torch.export.Dim("rows", min=1)},),
            opset_version=_OPSETS[""],
            verbose=False,
        )
    return bytes(program.model_proto.SerializeToString())


def _with_probabilities(model: TorchClassifier, example: torch.Tensor) -> torch.nn.Module:
    """The network with the layer that makes probabilities of its logits, (rows,) or (rows, classes)."""
    import torch

    with torch.no_grad():
        classes = model.module.eval()(example).ndim == 2
    last = torch.nn.Softmax(dim=1) if classes else torch.nn.Sigmoid()
    return torch.nn.Sequential(model.module, last).eval()


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
