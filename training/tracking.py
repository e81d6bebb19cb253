"""Each training in MLflow: one experiment a use case, one run a model, everything of a run in few calls.

A training outlives MLflow: calls that it does not answer go to a journal in the home folder, and are made in their
order as soon as it answers again, at the latest by the next training. No model flavour is logged here: what serves is
among the run's artifacts. This module knows nothing of fitting.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from millrace.errors import first_line
from millrace.settings import Settings
from training.journal import Call, Journal
from training.mlflow_calls import MlflowCalls, OutageError, batch_calls, files_call, new_run_id, now_ms
from training.provenance import TableInput

_VENDORS = ("scikit-learn", "torch", "onnx", "onnxruntime", "skl2onnx", "numpy", "polars", "feast", "mlflow")
_log = logging.getLogger(__name__)


class Tracking:
    """The experiment of one use case, open for runs.

    With `must_answer`, `MillraceError` is raised at once when MLflow does not answer, before a training has cost
    anything; from then on it may come and go. `close` when the runs are done.
    """

    def __init__(self, settings: Settings, use_case: str, *, must_answer: bool = True) -> None:
        self._folder = settings.home.absolute() / "mlflow-journal" / use_case
        self._calls = MlflowCalls(settings, use_case)
        self._own: Journal | None = None
        if must_answer:
            _ = self._calls.client
        self._make_left()

    @contextmanager
    def run(self, name: str) -> Iterator[Run]:
        """A run that ends with the body: finished, or failed when it raises."""
        run = Run(self, new_run_id())
        self.catch_up()
        self.send({"call": "create", "run": run.key, "name": name, "at": now_ms()})
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        finally:
            self.send({"call": "end", "run": run.key, "status": status, "at": now_ms()})

    def send(self, call: Call) -> None:
        """Make a call, or keep it, after those that are kept already."""
        if self._own is None:
            try:
                self._calls.make(call)
                return
            except OutageError as error:
                _log.warning("MLflow does not answer (%s): what this training tells it is kept for later.", error)
                self._own = Journal.begin(self._folder)
        self._own.write(call)

    def catch_up(self) -> bool:
        """Make the calls that were kept, if MLflow answers now; whether none is left."""
        if self._own is not None and self._make(self._own):
            self._own = None
        return self._own is None

    def end_left(self) -> None:
        """End as killed the runs that earlier trainings left open; another that runs now must not be there."""
        try:
            for run in self._calls.open_runs():
                self.send({"call": "end", "run": run, "status": "KILLED", "at": now_ms()})
        except OutageError as error:
            _log.warning("MLflow does not answer (%s): runs of killed trainings stay open until the next.", error)

    def id_of(self, key: str) -> str:
        """MLflow's id of a run; ours as long as MLflow has not made it."""
        return self._calls.id_of(key)

    def close(self) -> None:
        """Make what can be made; what is left is the next training's to make."""
        if not self.catch_up() and self._own is not None:
            self._own.close()
            self._own = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_left(self) -> None:
        """Make what trainings before this one had to keep."""
        for journal in Journal.left(self._folder):
            if not (self._calls.answers() and self._make(journal)):
                journal.close()

    def _make(self, journal: Journal) -> bool:
        from mlflow.exceptions import MlflowException

        for call in journal.calls():
            try:
                self._calls.make(call | {"again": True})
            except OutageError:
                return False
            except (MlflowException, ValueError) as error:  # it never can be made: its run was deleted, say
                _log.warning("A call to MLflow that was kept cannot be made: %s", first_line(error))
        journal.discard()
        return True


class Untracked(Tracking):
    """Runs that nobody hears of: a model is made again only to be compared."""

    def __init__(self) -> None:
        """Nothing is opened."""

    def send(self, call: Call) -> None:
        """Nothing is made or kept."""

    def catch_up(self) -> bool:
        """Nothing was kept."""
        return True

    def id_of(self, key: str) -> str:
        """Ours: MLflow makes none."""
        return key

    def close(self) -> None:
        """Nothing is left."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model's run, open. `key` names it whether or not MLflow has made it yet."""

    tracking: Tracking
    key: str

    @property
    def id(self) -> str:
        """MLflow's id of it; ours as long as MLflow has not made it."""
        return self.tracking.id_of(self.key)

    def log(
        self,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, Any],
        curves: Mapping[str, Sequence[float]],
    ) -> None:
        """Parameters, metrics, tags and curves (a value an epoch) in as few calls as MLflow's limits allow."""
        now = now_ms()
        points = [(name, float(value), now, 0) for name, value in metrics.items()]
        points += [
            (name, float(value), now, step) for name, curve in curves.items() for step, value in enumerate(curve)
        ]
        for call in batch_calls(self.key, metrics=points, params=params, tags=tags):
            self.tracking.send(call)

    def log_inputs(self, tables: Iterable[TableInput]) -> None:
        """The tables that the training read, as MLflow's data sets."""
        told = [{"name": one.name, "digest": one.digest, "source": json.dumps(one.to_dict())} for one in tables]
        self.tracking.send({"call": "inputs", "run": self.key, "tables": told})

    def log_json(self, content: Mapping[str, Any], name: str) -> None:
        """A JSON file as the run's artifact `name`."""
        self.tracking.send({"call": "text", "run": self.key, "text": json.dumps(content, indent=2), "name": name})

    def log_bytes(self, content: bytes, name: str) -> None:
        """A file as the run's artifact `name`."""
        with TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(content)
            self.tracking.send(files_call(self.key, Path(folder), ""))

    def log_folder(self, folder: Path, name: str) -> None:
        """A folder as the run's artifact `name`."""
        self.tracking.send(files_call(self.key, folder, name))


def record_verdicts(
    settings: Settings,
    use_case: str,
    judged: Mapping[str, tuple[Mapping[str, Any], Mapping[str, float]]],
    *,
    best: str,
    pareto: bytes,
    points: Sequence[Mapping[str, Any]],
) -> None:
    """Add to finished runs how each model was judged and what it costs: metrics, a tag, and `verdict.json`.

    The run `best` also gets the picture of all models' quality against their cost, `pareto.png`, and its figures.
    """
    with Tracking(settings, use_case, must_answer=False) as tracking:
        for run_id, (verdict, cost) in judged.items():
            run = Run(tracking, run_id)
            tags = {"millrace.verdict": "passed" if verdict["passed"] else "refused"}
            run.log(params={}, metrics=cost, tags=tags, curves={})
            run.log_json(verdict, "verdict.json")
        chosen = Run(tracking, best)
        chosen.log_bytes(pareto, "pareto.png")
        chosen.log_json({"models": list(points)}, "pareto.json")


def requirements() -> list[str]:
    """What the model was made with, as `name==version`."""
    return [f"{name}=={version(name)}" for name in _VENDORS]
