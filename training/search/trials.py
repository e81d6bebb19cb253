"""What was tried and what came of it, as values that outlive the study.

It knows nothing of Optuna's storage, nor of how parameters are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, isnan, nan
from statistics import fmean
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of parameters that was tried.

    `losses` are the log losses, in nats, of the folds it was fitted on: all of them when `complete`, the first ones
    when it was `pruned` or has `failed`, and then `reason` says why. `seconds` is what the fits took.
    """

    params: Mapping[str, Any]
    state: Literal["complete", "pruned", "failed"]
    losses: tuple[float, ...]
    reason: str
    seconds: float

    @property
    def log_loss(self) -> float:
        """The mean over the folds; NaN when it was not watched on all of them."""
        return fmean(self.losses) if self.state == "complete" else nan


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: the parameters to fit with, and their mean log loss over the folds in nats.

    Without a complete trial they are the candidate's own, and the loss is NaN. `trials` are in the order of trying,
    the candidate's own parameters first; `stopped` says why no more were tried.
    """

    params: Mapping[str, Any]
    log_loss: float
    trials: tuple[Trial, ...]
    stopped: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for a run's record: a loss that is not there is None, a value that is not plain its text."""
        return {
            "params": _plain(self.params),
            "log_loss": None if isnan(self.log_loss) else self.log_loss,
            "stopped": self.stopped,
            "trials": [
                {
                    "params": _plain(one.params),
                    "state": one.state,
                    "losses": list(one.losses),
                    "reason": one.reason,
                    "seconds": round(one.seconds, 3),
                }
                for one in self.trials
            ],
        }


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if _is_plain(value) else str(value) for name, value in params.items()}


def _is_plain(value: object) -> bool:
    """Whether JSON has it: it has neither NaN nor the infinite."""
    return isfinite(value) if isinstance(value, float) else value is None or isinstance(value, (bool, int, str))


def best(trials: Iterable[Trial]) -> Trial | None:
    """The complete trial of least mean loss, of equal ones the first; None without any."""
    return min((one for one in trials if one.state == "complete"), key=lambda one: one.log_loss, default=None)
