"""Runs a torch network whose ONNX export was not equal: weights from the bundle, code from the use case itself.

The weights are read with safetensors, which holds numbers only; what builds the network is the operator's own code, as
in training. It knows the contract's matrix and nothing of features or requests. torch is imported when one is opened
(2 s and some 200 MB), which no other engine needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import Candidate, Distil, TorchCandidate
from millrace.contract import Contract
from millrace.errors import BundleError, first_line
from millrace.loader import load_use_case
from millrace.settings import Settings
from millrace.usecase import UseCase

if TYPE_CHECKING:
    from torch import nn

FITTING_PARAMS = ("learning_rate", "batch_size", "weight_decay")
"""Parameters that tell how to fit; all others are the network's."""
_ROWS = 16_384
"""Rows that go through a network at once."""


class TorchEngine:
    """A network's own probabilities, on the CPU."""

    name = "torch"

    def __init__(self, model: bytes, network: nn.Module, *, classes: int = 0, threads: int = 1) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            network.load_state_dict(load(model), strict=True)
        except (SafetensorError, RuntimeError) as error:  # torch's own for names or shapes that do not fit
            raise BundleError(
                f"The weights do not fit the network that the use case builds: {first_line(error)}.",
                looked="A network's code must stay as it was when its model was fitted.",
                todo="Restore the use case's code, or train again: millrace train NAME.",
            ) from error
        self._network, self._classes, self._threads = network.eval(), classes, threads

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """See `millrace.engine.Engine.predict`."""
        import torch

        if torch.get_num_threads() != self._threads:  # the process's, which a fit may have changed
            torch.set_num_threads(self._threads)
        rows = torch.from_numpy(np.require(matrix, np.float32, ["C", "W"]))
        with torch.inference_mode():
            logits = torch.cat([self._network(part) for part in rows.split(_ROWS)])
            if tuple(logits.shape) != ((len(matrix), self._classes) if self._classes else (len(matrix),)):
                raise BundleError(f"The network gives logits of shape {tuple(logits.shape)} to {len(matrix)} rows.")
            scores = logits.double().softmax(dim=1) if self._classes else logits.sigmoid().double()
        return scores.numpy()  # type: ignore[no-any-return]  # mypy does not follow torch's types


def open_network(contract: Contract, model: bytes, settings: Settings, *, threads: int = 1) -> TorchEngine:
    """The engine of a bundle's weights, which the caller trusts; `BundleError` when the use case has no network to take
    them."""
    return TorchEngine(model, network_of(contract, settings), classes=len(contract.classes), threads=threads)


def network_of(contract: Contract, settings: Settings) -> nn.Module:
    """The network, unfitted, that the contract's model is the weights of: built by the use case with its parameters.

    Raises `BundleError` when the use case has no such candidate, or its code raises.
    """
    use_case = load_use_case(contract.use_case, settings)
    candidate = _candidate(contract, use_case)
    params = {name: value for name, value in contract.lineage.get("params", {}).items() if name not in FITTING_PARAMS}
    try:
        network: nn.Module = candidate.module(contract.model_inputs, **params)
    except Exception as error:  # the use case's own code raises whatever it does
        raise BundleError(
            f"The use case {use_case.name!r} cannot build the network {contract.candidate!r}: {first_line(error)}."
        ) from error
    return network


def _candidate(contract: Contract, use_case: UseCase) -> TorchCandidate:
    """The candidate of the contract's name; `teacher+student` names the student that a distillation declares."""
    name, *suffixes = contract.candidate.split("+")
    found: Any = next((one for one in use_case.all_candidates if one.name == name), None)
    for suffix in suffixes:
        variants = found.variants if isinstance(found, TorchCandidate) else ()
        students = (one.student for one in variants if isinstance(one, Distil))
        found = next((student for student in students if student.name == suffix), None)
    if not isinstance(found, TorchCandidate):
        known = [one.name for one in use_case.all_candidates if not isinstance(one, Candidate)]
        raise BundleError(
            f"The use case {use_case.name!r} declares no network {contract.candidate!r}.",
            looked=f"Its networks are: {', '.join(known) or 'none'}.",
            todo="Restore the use case's code, or train again: millrace train NAME.",
        )
    return found
