"""Runs a model over encoded rows: ONNX Runtime, or scikit-learn read with skops against our own list of types, or a
torch network (`millrace.torch_engine`).

An engine takes the contract's matrix and gives the probability of outcome 1, or of each class when the contract has
classes. It knows nothing of features, requests or time. Nothing is unpickled: skops builds only types that it or
`ALLOWED` names, whatever the artefact asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.errors import BundleError, first_line
from millrace.settings import Settings, read_settings

if TYPE_CHECKING:
    from millrace.contract import Contract

Matrix = NDArray[np.float32]
Scores = NDArray[np.float64]

ALLOWED: tuple[str, ...] = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "numpy.dtype",
    "functools.partial",  # of check_array, in a gradient boosting with declared categories
    "sklearn.utils.validation.check_array",
)
"""Types beyond skops' own defaults (numpy's arrays, scikit-learn's public estimators) that a native model may hold."""


class Engine(Protocol):
    """What predicts. `name` is `onnx`, `skops` or `torch`."""

    name: str

    def predict(self, matrix: Matrix) -> Scores:
        """Probability of outcome 1, float64 (rows,), or of each class, (rows, classes).

        Of a float32 matrix (rows, width) as the contract encodes it.
        """


class Model(Protocol):
    """What an engine is opened from: a `millrace.bundle.Bundle`."""

    @property
    def contract(self) -> Contract:
        """What names the engine and the shapes of what goes in and out."""

    def model(self) -> bytes:
        """The model's verified bytes."""


def open_engine(bundle: Model, *, threads: int = 1, settings: Settings | None = None) -> Engine:
    """The engine that the bundle's contract names, ready to predict; one prediction uses at most `threads` threads.

    A torch network is built by its use case, which `settings` (else the environment's) tell where to find. Raises
    `BundleError` when the model cannot be loaded or does not fit the contract.
    """
    contract = bundle.contract
    if contract.engine == "torch":
        from millrace.torch_engine import open_network

        return open_network(contract, bundle.model(), settings or read_settings(), threads=threads)
    classes = len(contract.classes)
    return load_engine(contract.engine, bundle.model(), width=contract.width, classes=classes, threads=threads)


def load_engine(
    kind: Literal["onnx", "skops"], model: bytes, *, width: int, classes: int = 0, threads: int = 1
) -> Engine:
    """The engine of a model's bytes, which the caller trusts to be what they were when they were written."""
    if kind == "onnx":
        return OnnxEngine(model, width=width, classes=classes, threads=threads)
    return SkopsEngine(model, classes=classes, threads=threads)


class OnnxEngine:
    """An ONNX Runtime session on the CPU.

    Threads do not spin while they wait: spinning costs a core for each idle model. The arena is off: it keeps the
    memory of the largest batch ever seen, and one row takes the same time without it (7 to 9 µs either way).
    """

    name = "onnx"

    def __init__(self, model: bytes, *, width: int, classes: int = 0, threads: int = 1) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base of their own
            raise BundleError(f"The ONNX model cannot be loaded: {first_line(error)}") from error
        self._input, self._output = _names(self._session, width, classes)
        self._all = classes > 0

    def predict(self, matrix: Matrix) -> Scores:
        """See `Engine.predict`."""
        output = self._session.run(self._output, {self._input: matrix})[0]
        scores = output[:, 1] if output.ndim == 2 and not self._all else output
        return scores.astype(np.float64)  # type: ignore[no-any-return]  # the runtime ships no types


class SkopsEngine:
    """A scikit-learn estimator's own `predict_proba`, for models whose ONNX export was not equal."""

    name = "skops"

    def __init__(self, model: bytes, *, classes: int = 0, threads: int = 1) -> None:
        from skops.io import loads
        from skops.io.exceptions import UntrustedTypesFoundException

        try:
            self._estimator = loads(model, trusted=list(ALLOWED))
        except UntrustedTypesFoundException as error:
            raise BundleError(
                f"The native model holds types that are not on Millrace's list: {error}.",
                todo="Give the candidate an estimator that exports to ONNX, or one made of scikit-learn's own parts.",
            ) from error
        except Exception as error:  # a damaged archive raises whatever its first broken part does
            raise BundleError(f"The native model cannot be loaded: {first_line(error)}.") from error
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it ships no types

        self._pools, self._threads = ThreadpoolController(), threads
        self._all = classes > 0

    def predict(self, matrix: Matrix) -> Scores:
        """See `Engine.predict`."""
        with self._pools.limit(limits=self._threads):  # OpenMP would take every core, and spin: p99 44 ms, not 2
            scores = self._estimator.predict_proba(matrix)
        return np.asarray(scores if self._all else scores[:, 1], dtype=np.float64)


def _names(session: Any, width: int, classes: int) -> tuple[str, list[str]]:
    """The names of the one input and of the output that holds probabilities; `BundleError` when they do not fit."""
    given, outputs = session.get_inputs(), session.get_outputs()
    found = f"It takes {', '.join(f'{one.name} {one.type} {one.shape}' for one in given)}."
    if len(given) != 1 or given[0].type != "tensor(float)" or list(given[0].shape[1:]) != [width]:
        raise BundleError(f"The ONNX model does not take one float32 matrix of {width} columns.", looked=found)
    if len(outputs) != 1 or outputs[0].type not in ("tensor(float)", "tensor(double)"):
        raise BundleError(
            "The ONNX model does not give probabilities alone.", looked=f"It gives {len(outputs)} outputs."
        )
    if classes and outputs[0].shape[1:] not in ([classes], [None]) and not isinstance(outputs[0].shape[-1], str):
        raise BundleError(
            f"The ONNX model does not give a probability to each of {classes} classes.",
            looked=f"It gives {outputs[0].shape}.",
        )
    return given[0].name, [outputs[0].name]
