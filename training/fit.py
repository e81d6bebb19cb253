"""One candidate, fitted: any scikit-learn estimator, or a torch network by `training.network`.

Knows nothing of where rows come from, of hold-outs or of tracking. The same seed, rows and threads give the same model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import Candidate, ModelInput, TorchCandidate, default_params
from millrace.errors import MillraceError, TrainingError, first_line
from training.deadline import DeadlineError, deadline
from training.hardware import Hardware

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float32]
Labels = NDArray[np.int8]


class Classifier(Protocol):
    """A fitted model."""

    def predict_proba(self, matrix: Matrix) -> NDArray[Any]:
        """Probabilities (rows, 2) of the outcomes 0 and 1, or (rows, classes)."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted candidate, the parameters it was built with, the curves of its losses by epoch if it has any, and on
    what it was fitted with the reason why there (networks only)."""

    model: Classifier
    params: Mapping[str, Any]
    curves: Mapping[str, Sequence[float]]
    reason: str = ""


def fit(
    candidate: Candidate | TorchCandidate,
    inputs: Sequence[ModelInput],
    X: Matrix,
    y: Labels,
    *,
    classes: int = 0,
    seed: int = 0,
    hardware: Hardware | None = None,
    params: Mapping[str, Any] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    parent: Mapping[str, Tensor] | None = None,
) -> Fitted:
    """Fit on X (rows, columns) and y (rows,), rows in time order, with `params` over the defaults.

    y holds 0 and 1, or with `classes` positions from 0 to classes − 1. `checkpoints` is a network's folder of them, and
    `resume` goes on from there; `parent` are the weights that a network starts from. Estimators know neither.

    Raises `TrainingError` naming the candidate when building or fitting it raises, or takes longer than its `timeout`.
    """
    hardware, chosen = hardware or Hardware(), default_params(candidate.search) | dict(params or {})
    with _named(candidate, X, chosen), _threads(hardware), deadline(candidate.timeout):
        if isinstance(candidate, Candidate):
            return _fit_estimator(candidate, inputs, X, y, classes=classes, params=chosen, seed=seed)
        from training.network import fit_torch

        files = partial(fit_torch, checkpoints=checkpoints, resume=resume, parent=parent)
        network = files(candidate, inputs, X, y, classes=classes, params=chosen, seed=seed, hardware=hardware)
        return Fitted(network, chosen, network.curves, network.reason)


@contextmanager
def _named(candidate: Candidate | TorchCandidate, X: Matrix, params: Mapping[str, Any]) -> Iterator[None]:
    """What goes wrong inside is told with the candidate's name and what it was given."""
    given = f"It was given {X.shape[0]} rows of {X.shape[1]} inputs and the parameters {dict(params)}."
    try:
        yield
    except MillraceError:
        raise
    except DeadlineError as error:
        limit = f"{candidate.timeout.total_seconds():g} s, its timeout"
        raise TrainingError(
            f"The candidate {candidate.name!r} was not fitted within {limit}.",
            looked=given,
            todo="Give it more time (timeout=timedelta(…)) or less to do; the champion is untouched.",
        ) from error
    except Exception as error:  # a candidate is the user's code: whatever it raises, the answer names it
        raise TrainingError(
            f"The candidate {candidate.name!r} cannot be fitted: {first_line(error)}.",
            looked=given,
            todo="Fix its builder in the use case's models; the champion is untouched.",
        ) from error


def _threads(hardware: Hardware) -> AbstractContextManager[Any]:
    """As many as asked for, one by default: with two, on two cores that others use too, gradient boosting took 28 s
    instead of 4.6 s, since OpenMP's threads spin while they wait for each other."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    limits: AbstractContextManager[Any] = threadpool_limits(hardware.threads)
    return limits


def _fit_estimator(
    candidate: Candidate,
    inputs: Sequence[ModelInput],
    X: Matrix,
    y: Labels,
    *,
    classes: int,
    params: Mapping[str, Any],
    seed: int,
) -> Fitted:
    estimator = candidate.build(inputs, **params)
    missing = [method for method in ("fit", "predict_proba") if not callable(getattr(estimator, method, None))]
    if missing:
        raise TrainingError(
            f"The candidate {candidate.name!r} built a {type(estimator).__name__} without {' and '.join(missing)}.",
            todo="Return an unfitted scikit-learn classifier.",
        )
    if hasattr(estimator, "get_params"):
        names = [name for name in estimator.get_params(deep=True) if name.split("__")[-1] == "random_state"]
        estimator.set_params(**{name: seed for name in names if estimator.get_params()[name] is None})
    fitted: Classifier = estimator.fit(X, y)
    _check_outcomes(candidate, fitted, classes or 2)
    return Fitted(fitted, params, {})


def _check_outcomes(candidate: Candidate, fitted: Classifier, outcomes: int) -> None:
    """An estimator has a column of probabilities for each outcome that it has seen, so it must have seen them all."""
    seen = getattr(fitted, "classes_", None)
    if seen is not None and list(seen) != list(range(outcomes)):
        raise TrainingError(
            f"The candidate {candidate.name!r} was fitted on the outcomes {', '.join(map(str, seen))} of 0 to "
            f"{outcomes - 1}: it could not tell the others.",
            todo="Train on a longer stretch: training=Training(history=…), or a later --as-of.",
        )
