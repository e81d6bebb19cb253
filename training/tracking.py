"""Each training in MLflow: one experiment a use case, one run a candidate, everything of a run in one batch.

No model flavour is logged: the run's artifact `bundle` is what serves. This module knows nothing of fitting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.registry import experiment_id, mlflow_client
from millrace.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_VENDORS = ("scikit-learn", "torch", "onnx", "onnxruntime", "skl2onnx", "numpy", "polars", "feast", "mlflow")
_LONGEST_VALUE = 5_000


@dataclass(frozen=True, slots=True)
class Run:
    """One candidate's run, open."""

    client: MlflowClient
    id: str

    def log(
        self,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, Any],
        curves: Mapping[str, Sequence[float]],
    ) -> None:
        """Parameters, metrics, tags and curves (a value an epoch) in one batch."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1_000)
        points = [Metric(name, value, now, 0) for name, value in metrics.items()]
        points += [Metric(name, value, now, step) for name, curve in curves.items() for step, value in enumerate(curve)]
        self.client.log_batch(
            self.id,
            metrics=points[:1_000],  # the most that one batch takes
            params=[Param(name, str(value)[:_LONGEST_VALUE]) for name, value in params.items()],
            tags=[RunTag(name, str(value)[:_LONGEST_VALUE]) for name, value in tags.items()],
        )

    def log_json(self, content: Mapping[str, Any], name: str) -> None:
        """A JSON file as the run's artifact `name`."""
        self.client.log_dict(self.id, dict(content), name)

    def log_folder(self, folder: Path, name: str) -> None:
        """A folder as the run's artifact `name`."""
        self.client.log_artifacts(self.id, str(folder), name)


class Tracking:
    """The experiment of one use case, open for runs."""

    def __init__(self, settings: Settings, use_case: str) -> None:
        self.client = mlflow_client(settings)
        self._experiment = experiment_id(self.client, settings, use_case)

    @contextmanager
    def run(self, name: str) -> Iterator[Run]:
        """A run that ends with the body: finished, or failed when it raises."""
        created = self.client.create_run(self._experiment, run_name=name)
        run = Run(self.client, created.info.run_id)
        try:
            yield run
        except BaseException:
            self.client.set_terminated(run.id, "FAILED")
            raise
        self.client.set_terminated(run.id)


def record_verdict(settings: Settings, run_id: str, *, verdict: Mapping[str, Any], cost: Mapping[str, float]) -> None:
    """Add to a finished run what its model costs and how it was judged: metrics, a tag, and `verdict.json`."""
    client = mlflow_client(settings)
    tags = {"millrace.verdict": "passed" if verdict["passed"] else "refused"}
    run = Run(client, run_id)
    run.log(params={}, metrics=cost, tags=tags, curves={})
    run.log_json(verdict, "verdict.json")


def requirements() -> list[str]:
    """What the model was made with, as `name==version`."""
    return [f"{name}=={version(name)}" for name in _VENDORS]
