"""Where the time of a request went: the stages between its arrival and its answer, in seconds.

They are measured a batch at a time, which costs five readings of a clock; each request of the batch is told the same
figures beside its own. This module knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stages:
    """What a batch spent on reading `features`, in the `model`, on the `log` and on the `answers`; seconds.

    `began` is when it began (`time.perf_counter`) and `rows` how many rows it had.
    """

    began: float
    rows: int
    features: float = 0.0
    model: float = 0.0
    log: float = 0.0
    answers: float = 0.0
