"""A candidate's module made ready to be fitted: built or taken over, given its statistics or a parent's weights.

It knows modules and their outputs' shapes; it does not know how they are fitted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from millrace.candidates import ModelInput, TorchCandidate
from millrace.errors import TrainingError
from training.network.classifier import logits_of


def ready_module(
    candidate: TorchCandidate,
    inputs: Sequence[ModelInput],
    X: NDArray[np.float32],
    size: int,
    classes: int,
    *,
    params: Mapping[str, Any],
    parent: Mapping[str, torch.Tensor] | None,
    start: torch.nn.Module | None,
) -> torch.nn.Module:
    """The module before its first step on the first `size` rows of X.

    A new module's `fit_statistics(X)`, if it has one, sees the fit rows; a parent's weights bring their own statistics,
    since they were learned with them. `start` is copied. Raises `TrainingError` when it is no module, its output has
    another shape than the label wants, or the parent's weights do not fit it.
    """
    module = copy.deepcopy(start) if start is not None else candidate.module(inputs, **params)
    if not isinstance(module, torch.nn.Module):
        raise TrainingError(f"The candidate {candidate.name!r} built a {type(module).__name__}, not a torch.nn.Module.")
    rows = torch.from_numpy(np.require(X[:size], np.float32, ["C", "W"]))
    _check_output(candidate, module, rows[:2], classes)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise TrainingError(f"The module of {candidate.name!r} has no parameter that can be fitted.")
    if start is None and parent is None and callable(hook := getattr(module, "fit_statistics", None)):
        hook(rows)
    if parent is not None:
        _take_weights(candidate, module, parent)
    return module


def _check_output(candidate: TorchCandidate, module: torch.nn.Module, rows: torch.Tensor, classes: int) -> None:
    shape, wanted = tuple(logits_of(module, rows).shape), (len(rows), classes) if classes else (len(rows),)
    if shape != wanted:
        want = f"{classes} logits a row are wanted, one a class" if classes else "one logit a row is wanted"
        raise TrainingError(
            f"The module of {candidate.name!r} gives {shape} for {len(rows)} rows; {want}.",
            todo=f"Let its last layer have {classes} outputs." if classes else "End its forward with .squeeze(-1).",
        )


def _take_weights(candidate: TorchCandidate, module: torch.nn.Module, parent: Mapping[str, torch.Tensor]) -> None:
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in parent]
    wrong += [f"{name} is unknown" for name in parent if name not in own]
    wrong += [
        f"{name} is {tuple(parent[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in parent and parent[name].shape != value.shape
    ]
    if wrong:
        raise TrainingError(
            f"The parent's weights do not fit the candidate {candidate.name!r}: {'; '.join(wrong[:3])}.",
            looked="An embedding changes its size when training sees a category that the parent did not.",
            todo="Train without --from, or from a version of the same candidate, parameters and categories.",
        )
    module.load_state_dict(dict(parent))
