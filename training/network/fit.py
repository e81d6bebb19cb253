"""A torch candidate on rows: checked, built, fitted where it was chosen to be, and returned as a classifier.

The table of contents of this package. It knows no hold-out, no export and no tracking.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import Distil, ModelInput, TorchCandidate
from millrace.errors import TrainingError
from training.hardware import Hardware, chosen
from training.network.classifier import TorchClassifier

if TYPE_CHECKING:
    import torch

    from training.network.group import Group
    from training.network.task import Outcome, Recipe, Task

logger = logging.getLogger(__name__)

_FIELDS = ("learning_rate", "batch_size", "weight_decay")
"""Parameters that replace a field of the candidate; the others go to its module."""


def fit_torch(
    candidate: TorchCandidate,
    inputs: Sequence[ModelInput],
    X: NDArray[np.float32],
    y: NDArray[np.int8],
    *,
    params: Mapping[str, Any],
    seed: int,
    classes: int = 0,
    hardware: Hardware | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    parent: Mapping[str, torch.Tensor] | None = None,
    teacher: NDArray[np.float64] | None = None,
    distil: Distil | None = None,
    start: torch.nn.Module | None = None,
    epochs: int | None = None,
) -> TorchClassifier:
    """Fit on X (rows, columns) and y (rows,), rows in time order; the weights of the best epoch are kept.

    The last tenth of the rows is watched, not fitted. `classes` 0 means outcomes 0 and 1 with one logit a row, else y
    holds positions. `checkpoints` is a folder for where the fit stands; `resume` continues what it holds of this very
    fit (the same rows, candidate, seed, first weights and machine), and otherwise starts anew and says why. The fit's
    file stays there when it is done, so that resuming a finished fit costs nothing; whoever named the folder clears it.
    `parent` holds weights to begin with, with their statistics; `start` is a module to fit further instead of a new
    one, and is not changed. `teacher` holds probabilities (rows,) or (rows, classes) to learn from as `distil` says.
    `epochs` replaces the candidate's `max_epochs`.

    On one CPU the same arguments give the same bits. Under torchrun every process calls this with the same arguments
    and gets the same classifier; only the first writes. Raises `TrainingError` when the rows or the module do not fit
    the declaration, `parent` is of another shape, or a loss is not finite.
    """
    from training.network.processes import joined
    from training.network.randomness import seeded
    from training.network.task import Task

    hardware, group = hardware or Hardware(), joined()
    candidate, rest = _with_fields(candidate, params, epochs)
    _check_rows(candidate, X, y, classes, teacher, distil)
    with seeded(seed, hardware.threads):
        module, size = _module(candidate, inputs, X, classes, rest, parent, start)
        recipe = _recipe(candidate, distil, classes=classes, seed=seed)
        how = chosen(hardware, candidate, joined=group.world if group else 0)
        logger.info("Fitting %s on %s.", candidate.name, how.reason)
        task = Task(recipe, how, module, np.require(X, np.float32, ["C", "W"]), y, teacher, size, hardware.threads)
        outcome = _run(task, group, hardware.processes, checkpoints, resume=resume)
    for note in outcome.notes:
        logger.warning("%s: %s.", candidate.name, note)
    module.cpu().load_state_dict(dict(outcome.weights))
    return TorchClassifier(module.eval(), outcome.curves, "; ".join((how.reason, *outcome.notes)))


def _with_fields(
    candidate: TorchCandidate, params: Mapping[str, Any], epochs: int | None
) -> tuple[TorchCandidate, dict[str, Any]]:
    """The candidate with the parameters that are its fields, and the module's own parameters."""
    fields = {name: params[name] for name in _FIELDS if name in params}
    if epochs is not None:
        fields["max_epochs"] = epochs
    return replace(candidate, **fields), {name: value for name, value in params.items() if name not in _FIELDS}


def _check_rows(
    candidate: TorchCandidate,
    X: NDArray[np.float32],
    y: NDArray[np.int8],
    classes: int,
    teacher: NDArray[np.float64] | None,
    distil: Distil | None,
) -> None:
    """Raise `TrainingError` when rows, outcomes and a teacher's probabilities do not belong together."""
    wrong = ""
    if X.ndim != 2 or len(X) < 2 or y.shape != (len(X),):
        wrong = f"a matrix {X.shape} and outcomes {y.shape}; at least two rows with an outcome each are wanted"
    elif not 0 <= y.min() <= y.max() < (classes or 2):
        wrong = f"outcomes from {y.min()} to {y.max()} for {classes or 2} classes"
    elif (teacher is None) != (distil is None):
        wrong = "a teacher's probabilities without a Distil, or a Distil without them"
    elif teacher is not None and teacher.shape != ((len(X), classes) if classes else (len(X),)):
        wrong = f"a teacher's probabilities {teacher.shape} for {len(X)} rows and {classes or 2} classes"
    elif teacher is not None and not ((teacher >= 0) & (teacher <= 1)).all():
        wrong = "a teacher's probabilities that are not all between 0 and 1"
    if wrong:
        raise TrainingError(f"The candidate {candidate.name!r} was given {wrong}.")


def _module(
    candidate: TorchCandidate,
    inputs: Sequence[ModelInput],
    X: NDArray[np.float32],
    classes: int,
    params: Mapping[str, Any],
    parent: Mapping[str, torch.Tensor] | None,
    start: torch.nn.Module | None,
) -> tuple[torch.nn.Module, int]:
    """The module as it is before the first step, and how many rows are fitted."""
    from training.network.building import ready_module

    size = len(X) - max(1, len(X) // 10)
    return ready_module(candidate, inputs, X, size, classes, params=params, parent=parent, start=start), size


def _recipe(candidate: TorchCandidate, distil: Distil | None, *, classes: int, seed: int) -> Recipe:
    from training.network.objective import Objective
    from training.network.task import Recipe

    return Recipe(
        name=candidate.name,
        objective=Objective(classes, distil.weight, distil.temperature) if distil else Objective(classes),
        epochs=candidate.max_epochs,
        batch_size=candidate.batch_size,
        learning_rate=candidate.learning_rate,
        weight_decay=candidate.weight_decay,
        patience=candidate.patience,
        clip_norm=candidate.clip_norm,
        accumulate=candidate.accumulate,
        compile=candidate.compile,
        checkpoint_activations=candidate.checkpoint_activations,
        seed=seed,
    )


def _run(task: Task, group: Group | None, processes: int, checkpoints: Path | None, *, resume: bool) -> Outcome:
    """In this process, as one of torchrun's, or in new ones."""
    from training.network.group import Group, join
    from training.network.processes import fit_in_processes
    from training.network.run import run

    if group is None and processes > 1:
        return fit_in_processes(task, processes, checkpoints, resume=resume)
    if group is not None:
        join(group, task.chosen.device)
    return run(task, group or Group(), checkpoints, resume=resume)
