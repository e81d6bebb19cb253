"""What a model must be worth and may cost: limits on figures that the platform measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from millrace.errors import UseCaseError


@dataclass(frozen=True, slots=True)
class Limit:
    """One number a model must keep: `metric >= bound` or `metric <= bound`."""

    metric: str
    bound: float
    sense: Literal[">=", "<="]

    def holds(self, measured: float) -> bool:
        """Whether `measured` keeps the limit; NaN never does."""
        return measured >= self.bound if self.sense == ">=" else measured <= self.bound


def at_least(**bounds: float) -> tuple[Limit, ...]:
    """Limits of the form `metric >= bound`, for a `Budget`."""
    return tuple(Limit(metric, bound, ">=") for metric, bound in bounds.items())


def at_most(**bounds: float) -> tuple[Limit, ...]:
    """Limits of the form `metric <= bound`, for a `Budget`."""
    return tuple(Limit(metric, bound, "<=") for metric, bound in bounds.items())


QUALITY_METRICS = ("accuracy", "roc_auc", "log_loss", "brier", "calibration_error")
"""What a budget may limit of a model's quality on the hold-out."""
COST_METRICS = (
    "p50_ms",
    "p99_ms",
    "p50_ms_100",
    "p99_ms_100",
    "memory_mb",
    "bundle_mb",
    "cold_start_ms",
    "joules_per_1000",
)
"""What a budget may limit of its cost: latency of one row and of 100 rows at once, resident memory added by the model,
its size, the time until its first answer in a new process, and energy per 1,000 predictions."""
BUDGET_METRICS = frozenset(QUALITY_METRICS + COST_METRICS)
"""What a budget may limit."""


@dataclass(frozen=True, init=False, slots=True)
class Budget:
    """What a model must be worth and may cost: `Budget(at_least(roc_auc=0.62), at_most(p99_ms=10))`.

    A limit on what cannot be measured (energy, on a machine without a meter) refuses the model unless `waived` names
    the metric. `prefer` says which of the models that pass serves: the `best` of lowest log loss, or the `cheapest`,
    which has the lowest sum of shares that it takes of the budget's limits on cost.
    """

    limits: tuple[Limit, ...]
    waived: tuple[str, ...]
    prefer: Literal["best", "cheapest"]

    def __init__(
        self, *groups: Iterable[Limit], waived: Iterable[str] = (), prefer: Literal["best", "cheapest"] = "best"
    ) -> None:
        limits = tuple(limit for group in groups for limit in group)
        given = tuple(waived)
        unknown = sorted(({limit.metric for limit in limits} | set(given)) - BUDGET_METRICS)
        if unknown:
            raise UseCaseError(
                f"The budget limits {', '.join(unknown)}, which the platform does not measure.",
                looked=f"Measured are: {', '.join(sorted(BUDGET_METRICS))}.",
            )
        if prefer not in ("best", "cheapest"):
            raise UseCaseError(f"The budget prefers {prefer!r}; it can prefer the 'best' or the 'cheapest' model.")
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "waived", given)
        object.__setattr__(self, "prefer", prefer)

    def with_limits(self, bounds: Mapping[str, float]) -> Budget:
        """This budget with other bounds: those of metrics that it limits change, others become limits (quality at
        least, cost and losses at most). Raises `UseCaseError` for what is not measured."""
        kept = [Limit(one.metric, bounds.get(one.metric, one.bound), one.sense) for one in self.limits]
        added = {metric: bound for metric, bound in bounds.items() if metric not in {one.metric for one in self.limits}}
        more = [Limit(name, bound, ">=" if name in ("accuracy", "roc_auc") else "<=") for name, bound in added.items()]
        return Budget(kept, more, waived=self.waived, prefer=self.prefer)
