"""One task run by this process, alone or as one of a group.

It puts machine, rows and loop together; it does not know who started it or what becomes of the outcome.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch

from training.network import randomness
from training.network.batches import Rows
from training.network.checkpoint import Checkpoints
from training.network.group import Group
from training.network.loop import Loop
from training.network.machine import checkpointed_activations, set_up, why_not_compiled
from training.network.task import Outcome, Task, digests


def run(task: Task, group: Group, checkpoints: Path | None, *, resume: bool) -> Outcome:
    """Fit the task's module, which is changed when there is one process and copied when there are several.

    The caller has seeded the random numbers and gets them back as this leaves them.
    """
    recipe, notes = task.recipe, []
    kept = None
    if checkpoints is not None:
        kept = Checkpoints(checkpoints, recipe.name, digests(task, group.world))
        if not resume and group.rank == 0:
            kept.remove()
    X = torch.from_numpy(task.X)
    module = task.module if task.chosen.strategy == "single" else copy.deepcopy(task.module)
    with checkpointed_activations(module, recipe.checkpoint_activations):
        why = why_not_compiled(copy.deepcopy(module), X[: recipe.batch_size], task.chosen) if recipe.compile else ""
        randomness.start(recipe.seed, group.rank)
        machine = set_up(module, recipe, task.chosen, group, compiled=recipe.compile and not why)
        loop = Loop(recipe, machine, *_rows(task, X, machine.device), kept)
        notes += [why, loop.resume() if resume else ""]
        outcome = loop.run()
    return replace(outcome, notes=tuple(note for note in notes if note))


def _rows(task: Task, X: torch.Tensor, device: torch.device) -> tuple[Rows, Rows]:
    """The rows to fit and the rows to watch."""
    objective, size = task.recipe.objective, task.size
    y = objective.targets(task.y)
    soft = None if task.teacher is None else objective.soft_targets(task.teacher[:size])
    return Rows(X[:size], y[:size], soft, device=device), Rows(X[size:], y[size:], device=device)
