"""One candidate, fitted: any scikit-learn estimator, or a torch network by `training.torch_fit`.

Knows nothing of where rows come from, of hold-outs or of tracking. The same seed, rows and threads give the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import Candidate, ModelInput, TorchCandidate, default_params
from millrace.errors import MillraceError, TrainingError, first_line

Matrix = NDArray[np.float32]
Labels = NDArray[np.int8]


class Classifier(Protocol):
    """A fitted model."""

    def predict_proba(self, matrix: Matrix) -> NDArray[Any]:
        """Probabilities (rows, 2) of the outcomes 0 and 1."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted candidate, the parameters it was built with, and the curves of its losses by epoch if it has any."""

    model: Classifier
    params: Mapping[str, Any]
    curves: Mapping[str, Sequence[float]]


def fit(
    candidate: Candidate | TorchCandidate,
    inputs: Sequence[ModelInput],
    X: Matrix,
    y: Labels,
    *,
    seed: int = 0,
    threads: int = 1,
    params: Mapping[str, Any] | None = None,
) -> Fitted:
    """Fit on X (rows, inputs) and y (rows,) of 0 and 1, rows in time order, with `params` over the defaults.

    One thread by default: with two, on two cores that others use too, gradient boosting took 28 s instead of 4.6 s,
    since OpenMP's threads spin while they wait for each other. Raises `TrainingError` naming the candidate when
    building or fitting it raises.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    chosen = default_params(candidate.search) | dict(params or {})
    try:
        with threadpool_limits(threads):
            if isinstance(candidate, TorchCandidate):
                from training.torch_fit import fit_torch

                network = fit_torch(candidate, inputs, X, y, params=chosen, seed=seed, threads=threads)
                return Fitted(network, chosen, network.curves)
            return Fitted(_fit_estimator(candidate, inputs, X, y, params=chosen, seed=seed), chosen, {})
    except MillraceError:
        raise
    except Exception as error:  # a candidate is the user's code: whatever it raises, the answer names it
        raise TrainingError(
            f"The candidate {candidate.name!r} cannot be fitted: {first_line(error)}.",
            looked=f"It was given {X.shape[0]} rows of {X.shape[1]} inputs and the parameters {chosen}.",
            todo="Fix its builder in the use case's models; the champion is untouched.",
        ) from error


def _fit_estimator(
    candidate: Candidate, inputs: Sequence[ModelInput], X: Matrix, y: Labels, *, params: Mapping[str, Any], seed: int
) -> Classifier:
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
    return fitted
