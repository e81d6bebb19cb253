"""Training: the flights' candidates from rows to verdict, what MLflow costs of it, whether the gate says the same ten
times, what the camera's digits come to, and a network against a bare loop.

On the real flights of the first three months of 2013 and scikit-learn's digits. `--runs` is how often the gate
measures one bundle again.
"""

from __future__ import annotations

import argparse
import json
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
from millrace.registry import mlflow_client
from millrace.settings import quiet_vendors
from pipelines.models import train_and_gate
from pipelines.workspace import Workspace, open_workspace

AS_OF = datetime(2013, 4, 1, tzinfo=UTC)
DIGITS_AS_OF = datetime(1999, 1, 1, tzinfo=UTC)


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
    """All that a training does for MLflow's sake is timed in the body: opening it, which imports it, every call, the
    files of the model that it is given, registering and the alias."""
    import training.promote as promoting
    import training.record as recording
    from millrace.registry.mirror import Mirror
    from training.tracking import Tracking

    watch = Stopwatch()
    tracking = [(Tracking, name) for name in ("__init__", "send", "catch_up", "close", "end_left", "_make_left")]
    mirror = [(Mirror, name) for name in ("mend", "run", "add", "tag", "version_of", "alias", "point")]
    places: list[tuple[Any, str]] = [*tracking, *mirror, (recording, "log_model_files"), (promoting, "record_verdicts")]
    before = [(place, name, getattr(place, name)) for place, name in places] + [
        (Mirror, "open", Mirror.__dict__["open"])
    ]
    for place, name, function in before:
        is_class = isinstance(function, classmethod)
        timed = watch.timed(function.__func__ if is_class else function)
        setattr(place, name, classmethod(timed) if is_class else timed)
    try:
        yield watch
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def once(home: Path, seed: int) -> None:
    """One training in this process, which has loaded nothing of MLflow: its seconds and MLflow's, and its rows."""
    with open_workspace("flight_delay", home) as ws, mlflow_timed() as watch:
        assert "mlflow" not in sys.modules
        began = time.perf_counter()
        done = train_and_gate(ws, as_of=AS_OF, options=options(seed))
        whole = time.perf_counter() - began
    making = sum(judged.model.seconds for judged in done.outcome.judged)
    print(json.dumps({"whole": whole, "mlflow": watch.seconds, "making": making, "rows": done.rows}))


def trainings(home: Path, repeat: int = 3) -> list[Figure]:
    """Both candidates and the baseline: fitted, exported, proven, measured, judged, registered; the median of trainings
    in fresh processes. MLflow's tables, which are made at first use, are there already."""
    runs = []
    for seed in range(repeat):
        command = [sys.executable, "-m", "benchmarks.training", "--once", str(home), "--seed", str(seed)]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        runs.append(json.loads(said.splitlines()[-1]))
    run, imported = sorted(runs, key=lambda one: one["whole"])[len(runs) // 2], importing()
    name = f"three months ({run['rows']:,} rows): baseline and both candidates gated, in a fresh process"
    return [
        Figure(name, run["whole"], "s", 60),
        Figure("  … of which fitting and exporting", run["making"], "s"),
        Figure("  … of which MLflow, its import and its files included", run["mlflow"], "s"),
        Figure("  … MLflow's share, import and files included", 100 * run["mlflow"] / run["whole"], "%", 5),
        Figure("  … MLflow's import alone", imported, "s"),
        Figure("  … MLflow's share without it", 100 * (run["mlflow"] - imported) / run["whole"], "%"),
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


def digits(home: Path) -> list[Figure]:
    """The whole training of the camera's digits: what the model that serves is worth and costs, which one it is."""
    from pipelines.data import ingest

    with open_workspace("digits_camera", home) as ws:
        ingest(ws, as_of=DIGITS_AS_OF)
        began = time.perf_counter()
        done = train_and_gate(ws, as_of=DIGITS_AS_OF)
        whole = time.perf_counter() - began
    judged = done.outcome.judged
    (best,) = (one for one in judged if one.model.candidate == done.outcome.version.candidate)
    passed, cost = sum(one.verdict.passed for one in judged), best.cost.figures
    return [
        Figure(f"digits: {best.model.candidate} is the cheapest of {len(judged)} models that passes", whole, "s"),
        Figure("  … accuracy on 450 images", 100 * best.model.quality.accuracy, "%", 98, ">="),
        Figure("  … p99 of one image", cost["p99_ms"], "ms", 10),
        Figure("  … memory added by the model", cost["memory_mb"], "MB", 100),
        Figure("  … models that pass", passed, "models", 1, ">="),
    ]


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
    parser.add_argument("--once", type=Path, metavar="HOME", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet_vendors()
    if given.once:
        once(given.once, given.seed)
        return
    with tempfile.TemporaryDirectory() as home:
        with ingested(Path(home)) as ws:
            mlflow_client(ws.settings)
            figures = trainings(Path(home)) + repeated(ws, given.runs)
        figures += digits(Path(home) / "digits")
    report("training", figures + torch_bench.rows())


if __name__ == "__main__":
    main()
