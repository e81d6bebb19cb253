"""How one training is run: what the command line asks for beside the use case and the moment.

Plain values only, so that a flow, a child process and a recorded run can carry them. It does not know what is done with
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from training.hardware import Hardware


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The choices of one training.

    `seed` is that of every random choice. `trials` is how many sets of parameters a search tries for each candidate (0:
    none, the defaults are fitted) and `timeout` when it stops, whichever comes first; a search goes on where an earlier
    one of the same rows ended. `resume` does so with the checkpoints of networks. `parent` is the registered version
    whose weights are fitted further. `budget` changes bounds of the use case's budget for this training.
    """

    seed: int = 0
    trials: int = 0
    timeout: timedelta | None = None
    resume: bool = False
    parent: int | None = None
    hardware: Hardware = field(default_factory=Hardware)
    budget: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for a flow's parameters and a run's record."""
        return {
            "seed": self.seed,
            "trials": self.trials,
            "timeout": self.timeout.total_seconds() if self.timeout else None,
            "resume": self.resume,
            "parent": self.parent,
            "device": self.hardware.device,
            "processes": self.hardware.processes,
            "threads": self.hardware.threads,
            "budget": dict(self.budget),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainOptions:
        """The options that `to_dict` wrote."""
        seconds = content["timeout"]
        return cls(
            seed=content["seed"],
            trials=content["trials"],
            timeout=None if seconds is None else timedelta(seconds=seconds),
            resume=content["resume"],
            parent=content["parent"],
            hardware=Hardware(content["device"], content["processes"], content["threads"]),
            budget=dict(content["budget"]),
        )
