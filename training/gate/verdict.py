"""What a gate came to: every limit with its measurement, every check with its figures, and the reasons in words.

Plain data that JSON can hold and give back. This module knows no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from math import isfinite, nan
from typing import Any, Literal

import numpy as np

from millrace.errors import GateError


@dataclass(frozen=True, slots=True)
class LimitResult:
    """One limit, what was measured, and by how much it is kept (negative: missed), in the metric's unit.

    `measured` and `margin` are None when the metric was not measured; then the limit is not kept, unless the budget
    has `waived` it. `interval` is the measurement's at 95 %, where there is one; `note` says why there is no
    measurement, or what weakens it.
    """

    metric: str
    sense: Literal[">=", "<="]
    bound: float
    measured: float | None
    margin: float | None
    passed: bool
    interval: tuple[float, float] | None = None
    waived: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule besides the budget's limits: `name` is parity, scores, baseline, champion, slices, calibration or
    robustness.

    `figures` are JSON-able: what was measured, with its intervals and the margins that it was held against.
    """

    name: str
    passed: bool
    reason: str
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the model may serve and why: `reasons` are sentences, those `against` it first (none when it passed),
    then budget, parity, scores, baseline, champion, slices, calibration, robustness; `limits` holds every limit with
    its measurement, in the budget's order, `checks` the figures of everything else that was looked at."""

    passed: bool
    reasons: tuple[str, ...]
    limits: tuple[LimitResult, ...]
    against: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def check(self, name: str) -> Check | None:
        """The check of this name; None when it was not made."""
        return next((one for one in self.checks if one.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; what is not finite becomes None, since JSON has no NaN."""
        found: dict[str, Any] = plain(self)
        return found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`. Verdicts that were stored before there were checks and intervals have none.

        Raises `GateError` when the data is no verdict.
        """
        try:
            return cls(
                passed=bool(stored["passed"]),
                reasons=tuple(stored["reasons"]),
                limits=tuple(_limit(one) for one in stored["limits"]),
                against=tuple(stored.get("against", ())),
                checks=tuple(Check(**_known(Check, one)) for one in stored.get("checks", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GateError(
                "What is stored as a verdict is none.",
                looked=f"It lacks or mistakes a part: {error}.",
                todo="Train again: millrace train.",
            ) from error


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and numpy's numbers as what JSON has; times in seconds, None for what is not
    finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value


def _limit(stored: Mapping[str, Any]) -> LimitResult:
    known = _known(LimitResult, stored)
    interval, bound = known.get("interval"), known["bound"]
    return LimitResult(
        **known | {"interval": tuple(interval) if interval else None, "bound": nan if bound is None else bound}
    )


def _known(kind: type[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows: a later one may have stored more."""
    return {one.name: stored[one.name] for one in fields(kind) if one.name in stored}
