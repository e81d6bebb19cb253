"""What one fit is, in full: all that a process must be told, and what it gives back.

Plain parts without the candidate's functions, so that a task can travel to another process and be told apart from
another by its digests. It does not know how a fit is done.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.hardware import Chosen
from training.network.objective import Objective


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is fitted; the words are `TorchCandidate`'s."""

    name: str
    objective: Objective
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    clip_norm: float
    accumulate: int
    compile: bool
    checkpoint_activations: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Task:
    """A module as it is before the first step, on the CPU, and the rows: the first `size` are fitted, the rest watched.

    `X` is (rows, columns) float32, `y` (rows,) int8 codes, `teacher` (rows,) or (rows, classes) probabilities.
    `threads` are those of each process.
    """

    recipe: Recipe
    chosen: Chosen
    module: torch.nn.Module
    X: NDArray[np.float32]
    y: NDArray[np.int8]
    teacher: NDArray[np.float64] | None
    size: int
    threads: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best weights on the CPU, the curves by epoch, and what was done otherwise than asked, with the reason."""

    weights: Mapping[str, torch.Tensor]
    curves: Mapping[str, list[float]]
    notes: tuple[str, ...] = ()


def digests(task: Task, world: int) -> dict[str, str]:
    """What makes a fit the one it is, each part by its digest: a checkpoint with other ones is another fit's."""
    rows: list[bytes | memoryview] = [str(task.size).encode()]
    weights: list[bytes | memoryview] = []
    for array in (task.X, task.y, task.teacher):
        rows += [b"none"] if array is None else [str(array.shape).encode(), np.ascontiguousarray(array).data]
    for name, value in task.module.state_dict().items():
        held = value.detach().contiguous().flatten().view(torch.uint8).numpy()
        weights += [name.encode(), str((value.dtype, tuple(value.shape))).encode(), held.data]
    way = (task.chosen.device, task.chosen.precision, task.chosen.strategy, world, task.threads, str(torch.__version__))
    return {
        "rows": _digest(rows),
        "candidate or seed": _digest([repr(task.recipe).encode(), _code(task.module).encode()]),
        "first weights": _digest(weights),
        "machine": _digest([repr(way).encode()]),
    }


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _code(module: torch.nn.Module) -> str:
    """The layers as torch prints them, and the source of the classes that are not torch's, where it can be read."""
    classes = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    sources = []
    for one in sorted(classes, key=lambda one: one.__qualname__):
        with suppress(OSError, TypeError):  # made in a console, or by code that is no file
            sources.append(inspect.getsource(one))
    return "\n".join([repr(module), *sources])
