"""Optuna's study of one search, in a SQLite file: opened, locked, named, read, and its errors told.

It knows nothing of models or folds. One process at a time works on a study, so what another one left running is dead.
"""

from __future__ import annotations

import fcntl
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import Candidate, TorchCandidate
from millrace.errors import BusyError, TrainingError, first_line
from training.search.space import SearchSpace
from training.search.trials import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as Asked

OUTCOME = "outcome"
"""The attribute of a trial that says what came of it; a trial without it does not count: it was killed, or twice the
same."""
BUSY_SECONDS = 30
"""How long a write waits for another program that has locked the file."""
_PREFIX = "sqlite:///"
_NOT_SEARCHED = {"name", "build", "module", "search", "variants", "timeout"}


@contextmanager
def open_study(storage: str, name: str, digest: str, *, resume: bool) -> Iterator[Study]:
    """The study `name` of this `digest`, made if it is not there, locked against every other process.

    `storage` is `sqlite:///` and a path, whose folder is made. What an ended process left running there is closed;
    without `resume`, or when every trial failed, the earlier study is deleted. Raises `BusyError` when another process
    searches under this name, and `TrainingError` when the storage cannot be used, in the body too.
    """
    if not storage.startswith(_PREFIX) or ":memory:" in storage:
        raise ValueError(f"storage must be {_PREFIX} and the path of a file, not {storage!r}")
    path = Path(storage.removeprefix(_PREFIX))
    with _locked(path, name), _quiet(), _opened(path, storage) as engine:
        from optuna.exceptions import StorageInternalError

        try:
            yield _study(engine, f"{name} {digest}", resume=resume)
        except StorageInternalError as error:
            raise _unusable(path, error.__cause__ or error) from error


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of this name beside the storage; a process that ends in any way lets go of it."""
    lock = path.with_name(f"{path.name}.{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise _unusable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"Another process is searching the parameters of {name}.",
                looked=f"It holds {lock}.",
                todo="Wait for it to end, or end it.",
            ) from error
        yield


@contextmanager
def _opened(path: Path, storage: str) -> Iterator[RDBStorage]:
    """The storage, its tables made; its connections are closed at the end."""
    from optuna.storages import RDBStorage

    try:
        engine = RDBStorage(storage, {"connect_args": {"timeout": BUSY_SECONDS}})
    except Exception as error:  # SQLAlchemy's own errors, which only the database's room may name
        raise _unusable(path, error) from error
    try:
        yield engine
    finally:
        engine.remove_session()
        engine.engine.dispose()


def _study(engine: RDBStorage, study_name: str, *, resume: bool) -> Study:
    """The study, without a running trial."""
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    load = partial(optuna.create_study, storage=engine, study_name=study_name, pruner=pruner, load_if_exists=True)
    study = load()
    if not resume or _all_failed(study):
        optuna.delete_study(study_name=study_name, storage=engine)
        study = load()
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        close_trial(study, left.number, left.user_attrs.get(OUTCOME))
    return study


def _all_failed(study: Study) -> bool:
    """Whether nothing of it is of use: what failed may have been the machine's fault, and shall be tried again."""
    outcomes = [one.user_attrs[OUTCOME]["state"] for one in _counted(study)]
    return bool(outcomes) and set(outcomes) == {"failed"}


def close_trial(study: Study, trial: Asked | int, outcome: Mapping[str, Any] | None) -> None:
    """Finish a running trial as its outcome says; None, for one that does not count, leaves it failed without one."""
    from optuna.trial import TrialState

    if outcome is None or outcome["state"] == "failed":
        study.tell(trial, state=TrialState.FAIL)
    elif outcome["state"] == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, fmean(outcome["losses"]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own log, which tells every trial, at errors only."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _unusable(path: Path, error: BaseException) -> TrainingError:
    return TrainingError(
        f"The storage of searches cannot be used: {first_line(error)}.",
        looked=f"It is {path}.",
        todo="If it is damaged, move it away (it holds only what earlier searches tried); if it is locked, end the "
        "program that holds it; if the disk is full, make room.",
    )


def read_trials(study: Study, space: SearchSpace) -> list[Trial]:
    """The trials of the study that count, in the order of trying."""
    return [_trial(one, space) for one in _counted(study)]


def tried_keys(study: Study) -> set[str]:
    """The `params_key` of every trial that counts."""
    return {params_key(one.params) for one in _counted(study)}


def params_key(stored: Mapping[str, Any]) -> str:
    """A text that is the same for the same stored parameters, whatever their order."""
    return repr(sorted(stored.items()))


def _counted(study: Study) -> list[FrozenTrial]:
    return [one for one in study.get_trials(deepcopy=False) if OUTCOME in one.user_attrs]


def _trial(stored: FrozenTrial, space: SearchSpace) -> Trial:
    outcome = stored.user_attrs[OUTCOME]
    return Trial(
        params=space.params(stored.params),
        state=outcome["state"],
        losses=tuple(outcome["losses"]),
        reason=outcome["reason"],
        seconds=outcome["seconds"],
    )


def study_digest(
    candidate: Candidate | TorchCandidate,
    space: SearchSpace,
    settings: Mapping[str, Any],
    data: Sequence[NDArray[Any]],
) -> str:
    """The digest of all that a trial's outcome depends on: the data, the space, `settings` (seed, folds) and the
    candidate with the source of the module that builds it, so that trials of another model are never taken for its."""
    rest = {one.name: getattr(candidate, one.name) for one in fields(candidate) if one.name not in _NOT_SEARCHED}
    build = candidate.module if isinstance(candidate, TorchCandidate) else candidate.build
    found = sha256(f"{space}\n{sorted(settings.items())}\n{sorted(rest.items())}\n{_source(build)}".encode())
    for array in data:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()[:16]


def _source(build: Callable[..., Any]) -> str:
    """The text of the module that defines `build`; its name where there is none (typed in a console)."""
    bound = []
    while isinstance(build, partial):
        bound.append(f"{build.args} {build.keywords}")
        build = build.func
    try:
        text = inspect.getsource(cast("Any", inspect.getmodule(inspect.unwrap(build))))
    except (OSError, TypeError):
        text = ""
    return f"{getattr(build, '__qualname__', type(build).__qualname__)} {bound}\n{text}"
