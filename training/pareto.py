"""The Pareto picture of a training: what each model is worth against what it costs, the champion and the budget marked.

A model is on the front when no other is at least as good in quality, latency and memory and better in one of them.
It draws figures that it is given and measures nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millrace.budget import Budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {"p99_ms": "p99 latency of one row (ms)", "memory_mb": "memory added (MB)"}
"""What quality is drawn against."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model: its log loss (nats, lower is better), accuracy, and cost (`p99_ms`, `memory_mb`)."""

    name: str
    log_loss: float
    accuracy: float
    cost: Mapping[str, float]
    passed: bool
    champion: bool = False

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        figures = {"log_loss": self.log_loss, "accuracy": self.accuracy} | dict(self.cost)
        return {"name": self.name, **figures, "passed": self.passed, "champion": self.champion}


def front(points: Sequence[Point]) -> list[str]:
    """The names of the models that no other dominates in log loss, p99 and memory; those not measured are left out."""
    measured = [(point.name, _figures(point)) for point in points if all(cost in point.cost for cost in COSTS)]
    return [
        name
        for name, mine in measured
        if not any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for _, other in measured)
    ]


def picture(points: Sequence[Point], budget: Budget, *, title: str) -> bytes:
    """A PNG of two panels: log loss against latency and against memory, on logarithmic axes of cost.

    Filled points passed their gate, hollow ones did not, the star is the champion; the front is joined by a line and
    dashed lines are the budget's limits.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    on_front = front(points)
    for axes, (cost, words) in zip(figure.subplots(1, 2, sharey=True), COSTS.items(), strict=True):
        _panel(axes, points, on_front, cost)
        for limit in budget.limits:
            if limit.metric == cost:
                axes.axvline(limit.bound, linestyle="--", color="tab:red", linewidth=1)
        axes.set_xlabel(words)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.25, y=0.15)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].set_ylabel("log loss on the hold-out (nats)")
    figure.suptitle(title)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def _panel(axes: Axes, points: Sequence[Point], on_front: Sequence[str], cost: str) -> None:
    shown = sorted((point for point in points if point.cost.get(cost, 0) > 0), key=lambda point: point.cost[cost])
    line = [point for point in shown if point.name in on_front]
    axes.plot([point.cost[cost] for point in line], [point.log_loss for point in line], color="tab:blue", alpha=0.4)
    for point in shown:
        axes.scatter(
            point.cost[cost],
            point.log_loss,
            s=140 if point.champion else 45,
            marker="*" if point.champion else "o",
            facecolor="tab:blue" if point.passed else "none",
            edgecolor="tab:blue" if point.passed else "tab:gray",
            zorder=3,
        )
        axes.annotate(point.name, (point.cost[cost], point.log_loss), xytext=(5, 5), textcoords="offset points", size=8)


def _figures(point: Point) -> tuple[float, ...]:
    return (point.log_loss, *(point.cost[cost] for cost in COSTS))
