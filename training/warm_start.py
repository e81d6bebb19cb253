"""Fitting further: the weights of a network are kept with its run, and a later training may begin with them.

Weights are safetensors, which hold numbers only; their digest stands in the signed bundle of every model made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.bundle import open_bundle
from millrace.candidates import TorchCandidate
from millrace.db import ModelRow
from millrace.errors import TrainingError
from millrace.inputs import InputSpec
from millrace.keys import public_key
from millrace.settings import Settings
from millrace.usecase import UseCase
from training.fit import Classifier
from training.runs import read_artifact

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
"""The run's artifact."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The registered version to begin with: the network that it is, or is a variant of, with that one's parameters and
    weights, and the inputs that it knows: a category's position must mean what it meant."""

    version: int
    candidate: str
    inputs: tuple[InputSpec, ...]
    params: Mapping[str, Any]
    weights: Mapping[str, Tensor]


def weights_of(model: Classifier) -> bytes:
    """A fitted network's weights and statistics; empty for any other model."""
    from training.network import TorchClassifier

    if not isinstance(model, TorchClassifier):
        return b""
    from safetensors.torch import save

    return bytes(save({name: value.contiguous() for name, value in model.module.state_dict().items()}))


def digest(weights: bytes) -> str:
    """SHA-256, hex; empty for no weights."""
    return hashlib.sha256(weights).hexdigest() if weights else ""


def open_parent(settings: Settings, use_case: UseCase, row: ModelRow) -> Parent:
    """The weights of a registered version, checked.

    Raises `TrainingError` when it is no network, its candidate is gone, or its run no longer has the weights that were
    signed; `BundleError` when its bundle is not whole.
    """
    contract = open_bundle(Path(row.bundle), public_key=public_key(settings)).contract
    lineage = contract.lineage
    root, expected = str(lineage.get("root", "")), str(lineage.get("weights_sha256", ""))
    networks = [one.name for one in use_case.all_candidates if isinstance(one, TorchCandidate)]
    if not expected or root not in networks:
        raise TrainingError(
            f"Version {row.version} of {row.use_case} ({row.candidate}) cannot be fitted further.",
            looked=f"Networks of the use case are: {', '.join(networks) or 'none'}."
            if expected
            else "Only networks are fitted further, and no weights are kept with its run.",
            todo="Train from scratch: leave out --from.",
        )
    from safetensors.torch import load

    return Parent(
        row.version,
        root,
        contract.inputs,
        dict(lineage["root_params"]),
        load(_fetched(settings, row, str(lineage["root_run_id"]), expected)),
    )


def _fetched(settings: Settings, row: ModelRow, run_id: str, expected: str) -> bytes:
    content = read_artifact(settings, run_id, WEIGHTS)
    if content is None or digest(content) != expected:
        problem = "are gone" if content is None else "are not those that were signed"
        raise TrainingError(
            f"The weights of version {row.version} of {row.use_case} {problem}.",
            looked=f"They should be the artifact {WEIGHTS} of the run {run_id}.",
            todo="Restore it from a copy, or train from scratch: leave out --from.",
        )
    return content
