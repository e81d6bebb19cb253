"""Several processes for one fit: started here on this machine, or joined when `torchrun` started this one.

Each child gets the task by cloudpickle, since a network's class is often local to a function; use-case packages, which
are loaded by path, are loaded in it first. Rows travel as files that all children map, so memory holds them once. The
module knows processes, not how a fit is done.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import torch

from millrace.errors import TrainingError, first_line
from training.network.group import Group, join
from training.network.run import run
from training.network.task import Outcome, Task

_USE_CASE = "millrace_use_case_"
_GRACE_SECONDS = 5.0
_PEERS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Order:
    """What a child is told; `folder` holds the rows and the place where the processes meet."""

    task: bytes
    folder: Path
    use_cases: tuple[Path, ...]
    group: Group
    device: str
    checkpoints: Path | None
    resume: bool


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a child's code or libraries raised."""

    said: str
    trace: str


def joined() -> Group | None:
    """This process's group when `torchrun` started it, else None."""
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    if not TorchElasticEnvironment.detect():
        return None
    place = TorchElasticEnvironment()
    return Group(place.global_rank(), place.world_size(), place.local_rank())


def fit_in_processes(task: Task, count: int, checkpoints: Path | None, *, resume: bool) -> Outcome:
    """Fit in `count` new processes on this machine, which end with the call, however it ends.

    Raises what the first process to fail raised, as `TrainingError`.
    """
    context, grace = _context(), 0.0
    with tempfile.TemporaryDirectory(prefix="millrace-fit-") as name:
        folder, children, ends = Path(name), [], []
        payload, use_cases = _packed(task, folder)
        try:
            for rank in range(count):
                end, far = context.Pipe(duplex=False)
                group = Group(rank, count, rank)
                order = _Order(payload, folder, use_cases, group, task.chosen.device, checkpoints, resume)
                child = context.Process(target=_work, args=(order, far), daemon=True, name=f"fit-{rank}")
                child.start()
                far.close()
                children.append(child)
                ends.append(end)
            outcome, grace = _first_outcome(task.recipe.name, ends), _GRACE_SECONDS
        finally:
            for child in children:
                child.join(timeout=grace)
                child.kill()
                child.join()
    return outcome


def _context() -> Any:
    """Children of a server that has imported torch and nothing else: importing costs 6 s of a core, each and every
    time, when they are started from nothing, as they are where there is no such server."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _first_outcome(name: str, ends: Sequence[Connection]) -> Outcome:
    """What the first process gives when all are done.

    Raises the error of the process that failed first; but an error of the fit itself, or a process that was killed,
    goes before what torch says in the others when their peer is gone, which may come earlier.
    """
    outcomes, waiting, failed = [], list(ends), None
    while waiting and (ready := wait(waiting, _PEERS_SECONDS if failed else None)):
        for end in [end for end in waiting if end in ready]:
            waiting.remove(end)
            try:
                # Bytes, not `recv`: torch would send tensors as files that their process must live to hand over.
                said = pickle.loads(end.recv_bytes())  # noqa: S301  # our own child's, through its own pipe
            except EOFError:
                raise _ended(name, ends.index(end) + 1, len(ends)) from None
            if isinstance(said, TrainingError):
                raise said
            if isinstance(said, _Failed):
                failed = failed or said
            outcomes.append(said)
    if failed is not None:
        error = TrainingError(f"A process that fitted {name!r} failed: {failed.said}.")
        error.add_note(failed.trace)
        raise error
    return next(outcome for outcome in outcomes if isinstance(outcome, Outcome))


def _ended(name: str, number: int, count: int) -> TrainingError:
    return TrainingError(
        f"A process that fitted {name!r} was ended from outside.",
        looked=f"Process {number} of {count}; the system may have run out of memory.",
        todo="Look into the system's log, or use fewer processes or a smaller batch_size.",
    )


def _packed(task: Task, folder: Path) -> tuple[bytes, tuple[Path, ...]]:
    """The rows as files, the rest as bytes, and the use cases that these bytes name."""
    for name in ("X", "y", "teacher"):
        if (array := getattr(task, name)) is not None:
            np.save(folder / f"{name}.npy", array)
    nothing = np.empty(0)
    bare = replace(task, X=nothing.astype(np.float32), y=nothing.astype(np.int8), teacher=None)
    try:
        with _by_value({type(part).__module__ for part in task.module.modules()}):
            payload = cloudpickle.dumps(bare)
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        raise TrainingError(
            f"The module of {task.recipe.name!r} cannot be sent to other processes: {first_line(error)}.",
            todo="Build it of parts that can be pickled, or train with --processes 1.",
        ) from error
    packages = [name for name in sys.modules if name.startswith(_USE_CASE) and "." not in name]
    named = [sys.modules[name] for name in packages if name.encode() in payload]
    return payload, tuple(Path(package.__path__[0]) for package in named)


@contextmanager
def _by_value(names: set[str]) -> Iterator[None]:
    """In the body, what another process could not import is pickled by value."""
    modules = [sys.modules[name] for name in names if name in sys.modules and not name.startswith(_USE_CASE)]
    chosen = [module for module in modules if module.__name__ != "__main__" and not _importable(module)]
    for module in chosen:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in chosen:
            cloudpickle.unregister_pickle_by_value(module)


def _importable(module: ModuleType) -> bool:
    """Whether a new process with our `sys.path` would find this very module by its name."""
    path: Any = None
    spec = None
    for end in range(1, module.__name__.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.__name__.split(".")[:end]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(module, "__file__", None)


def _work(order: _Order, far: Connection) -> None:
    """A child's whole life: its outcome or its error goes to the parent, whose end is its own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    said: Outcome | TrainingError | _Failed | None
    try:
        outcome = _fit(order)
        said = outcome if order.group.rank == 0 else None
    except TrainingError as error:
        said = error
    except BaseException as error:  # whatever ends a child is told to the parent, which raises it
        said = _Failed(first_line(error), traceback.format_exc())
    far.send_bytes(pickle.dumps(said))
    far.close()
    os._exit(0)  # torch's exit handlers would wait for processes that the parent has ended


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _fit(order: _Order) -> Outcome:
    _load_use_cases(order.use_cases)
    task: Task = pickle.loads(order.task)  # noqa: S301  # our own parent's bytes, through its own pipe
    # Copy on write: torch refuses what it cannot write to, and nothing writes.
    X, y = (np.load(order.folder / f"{name}.npy", mmap_mode="c") for name in ("X", "y"))
    teacher = order.folder / "teacher.npy"
    task = replace(task, X=X, y=y, teacher=np.load(teacher) if teacher.exists() else None)
    torch.set_num_threads(task.threads)
    join(order.group, order.device, meeting=(order.folder / "meeting").as_uri())
    return run(task, order.group, order.checkpoints, resume=order.resume)


def _load_use_cases(folders: Sequence[Path]) -> None:
    """Import the packages that the task's classes name, as the parent has."""
    if folders:
        loader, settings = importlib.import_module("millrace.loader"), importlib.import_module("millrace.settings")
        for folder in folders:
            loader.load_use_case(str(folder), settings.read_settings())
