"""Training: the flights' candidates from rows to verdict, what MLflow costs of it, a network against a bare loop, and
whether the gate says the same ten times.

All on the real flights of the first three months of 2013. `--runs` is how often the gate measures one bundle again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import torch_bench
from benchmarks.figures import Figure, report
from millrace.settings import quiet_vendors
from pipelines.models import TrainingDone, train_and_gate
from pipelines.workspace import Workspace, open_workspace

AS_OF = datetime(2013, 4, 1, tzinfo=UTC)


@contextmanager
def ingested(home: Path) -> Iterator[Workspace]:
    """The flights' workspace with three months of rows and features."""
    from pipelines.data import ingest, materialize

    with open_workspace("flight_delay", home) as ws:
        ingest(ws, as_of=AS_OF)
        materialize(ws, as_of=AS_OF)
        yield ws


class Stopwatch:
    """How long the calls of some functions took in all, calls within calls counted once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            self._depth += 1
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began

        return call


@contextmanager
def mlflow_timed() -> Iterator[Stopwatch]:
    """All that asks MLflow's client is timed in the body."""
    from mlflow import MlflowClient

    watch = Stopwatch()
    names = [name for name in vars(MlflowClient) if not name.startswith("_") and callable(getattr(MlflowClient, name))]
    before = {name: vars(MlflowClient)[name] for name in names}
    for name, function in before.items():
        setattr(MlflowClient, name, watch.timed(function))
    try:
        yield watch
    finally:
        for name, function in before.items():
            setattr(MlflowClient, name, function)


def trainings(ws: Workspace, repeat: int = 3) -> list[Figure]:
    """Both candidates and the baseline: fitted, exported, proven, measured, judged, registered; the median run."""
    from millrace.registry import mlflow_client

    mlflow_client(ws.settings)  # its tables are made at first use, once
    runs: list[tuple[float, float, TrainingDone]] = []
    for seed in range(repeat):
        with mlflow_timed() as watch:
            began = time.perf_counter()
            done = train_and_gate(ws, as_of=AS_OF, options=options(seed))
            runs.append((time.perf_counter() - began, watch.seconds, done))
    whole, tracked, done = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
    making = sum(judged.model.seconds for judged in done.outcome.judged)
    return [
        Figure(f"three months ({done.rows:,} rows): baseline and both candidates gated", whole, "s", 60),
        Figure("  … of which fitting and exporting", making, "s"),
        Figure("  … of which MLflow's client", tracked, "s"),
        Figure("  … MLflow's share", 100 * tracked / whole, "%", 5),
        Figure("  … importing MLflow, once a process, not in it", importing(), "s"),
    ]


def importing(repeat: int = 3) -> float:
    """Seconds that a fresh process needs to import MLflow's client beyond what a training has loaded anyway; the
    median."""
    code = (
        "import time, polars, sqlalchemy, pandas, sklearn, pydantic; began = time.perf_counter(); "
        "from mlflow import MlflowClient; print(time.perf_counter() - began)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(repeat)]
    return median(float(run.stdout) for run in runs)


def options(seed: int) -> Any:
    """A training with this seed."""
    from training.options import TrainOptions

    return TrainOptions(seed=seed)


def repeated(ws: Workspace, runs: int) -> list[Figure]:
    """The registered bundle measured and judged again and again: how many verdicts equal the most frequent one."""
    from millrace.bundle import open_bundle
    from millrace.keys import public_key
    from millrace.quality import Quality
    from serving.measure import measure
    from training.gate import judge

    (row, *_) = sorted(ws.db.models(ws.use_case.name), key=lambda one: -one.version)
    quality, folder = Quality.from_dict(row.quality), Path(row.bundle)
    names = open_bundle(folder, public_key=public_key(ws.settings)).contract.names
    sample = [list(one) for one in reference(ws, folder).select(names).head(1_000).iter_rows()]
    costs = [measure(folder, ws.settings, rows=sample).figures() for _ in range(runs)]
    verdicts = [judge(ws.use_case.budget, quality=quality, cost=cost) for cost in costs]
    said = [tuple((limit.metric, limit.passed) for limit in verdict.limits) for verdict in verdicts]
    figures = [Figure(f"same verdict in {runs} runs", max(map(said.count, said)), "runs", runs, ">=")]
    for metric in ("p99_ms", "p99_ms_100", "memory_mb", "cold_start_ms"):
        values = sorted(cost[metric] for cost in costs)
        middle, spread = values[len(values) // 2], 100 * (values[-1] - values[0]) / values[len(values) // 2]
        figures.append(Figure(f"  … {metric}: median ({spread:.0f} % from least to most)", middle, unit(metric)))
    return figures


def unit(metric: str) -> str:
    """The unit of a cost."""
    return "MB" if metric.endswith("_mb") else "ms"


def reference(ws: Workspace, folder: Path) -> Any:
    """The bundle's reference sample."""
    from millrace.bundle import open_bundle
    from millrace.keys import public_key

    return open_bundle(folder, public_key=public_key(ws.settings)).reference()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="how often the gate measures one bundle again")
    given = parser.parse_args()
    quiet_vendors()
    with tempfile.TemporaryDirectory() as home, ingested(Path(home)) as ws:
        figures = trainings(ws) + repeated(ws, given.runs)
    report("training", figures + torch_bench.rows())


if __name__ == "__main__":
    main()
