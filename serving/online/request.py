"""What was asked for: the checked rows of a request, and what it wants to know. This module knows nothing of bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.online.stages import Stages


@dataclass(slots=True, eq=False)
class PredictRequest:
    """What was asked: `count` rows, the instant to predict at (UTC; None is now), whether to answer the values used.

    `rows` are what each row brings. When every row brings all the model's inputs, `values` has them instead, in the
    contract's order, `rows` is empty and nothing needs to be read. `stages` is filled in by who answers.
    """

    count: int
    rows: Sequence[Mapping[str, Any]]
    at: datetime | None = None
    features: bool = False
    values: Sequence[Sequence[Any]] | None = None
    keys: Sequence[str] = ()
    """Each row's key in the population, of a request with `values` whose rows bring it."""
    stages: Stages | None = None


class ScoresRequest(PredictRequest):
    """A request that also asks for the probability of every class."""

    __slots__ = ()
