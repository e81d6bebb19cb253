"""What a training says to MLflow, as calls that can be kept and made later; made twice they leave the same run.

A call is JSON. It names its run by an id of ours, which a tag of the run holds (`millrace.run`), so that a run can be
spoken of before MLflow has made it; an id of MLflow's own does as well. This module knows nothing of what is tracked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import MillraceError, first_line
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import Settings
from training.journal import Call

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "millrace.run"
_OURS = "millrace-"
_RETRIES = 3
"""Of one HTTP request, with pauses of 0, 4 and 8 s; MLflow's own seven last four minutes, and a training waits."""


class OutageError(Exception):
    """MLflow does not answer, or not now; what was asked may be asked again."""


def new_run_id() -> str:
    """An id of ours for a run that MLflow has not made yet."""
    return _OURS + secrets.token_hex(12)


class MlflowCalls:
    """Calls about the runs of one use case, on `settings.mlflow`."""

    def __init__(self, settings: Settings, use_case: str) -> None:
        self._settings, self._use_case = settings, use_case
        self._ids: dict[str, str] = {}

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's own; opened when it is first needed. Raises `MillraceError` when MLflow does not answer."""
        from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

        if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set():
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(_RETRIES)
        return mlflow_client(self._settings)

    @cached_property
    def _experiment(self) -> str:
        return experiment_id(self.client, self._settings, self._use_case)

    def answers(self) -> bool:
        """Whether MLflow's server answers within two seconds; a database is asked by using it."""
        import httpx

        if not self._settings.mlflow.startswith("http"):
            return True
        try:
            return httpx.get(f"{self._settings.mlflow.rstrip('/')}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def id_of(self, run: str) -> str:
        """MLflow's id of a run, or the given one as long as MLflow has not made it."""
        return self._ids.get(run, run)

    def make(self, call: Call) -> None:
        """Make a call. Raises `OutageError` when it may be made later; MLflow's own error, or `ValueError`, when it
        never can be."""
        with self._reached():
            self._make(call)

    def open_runs(self) -> list[str]:
        """MLflow's ids of our runs that have not ended. Raises `OutageError` when MLflow does not answer."""
        ours = f"attributes.status = 'RUNNING' and tags.`{RUN_TAG}` LIKE '{_OURS}%'"
        with self._reached():
            return [run.info.run_id for run in self.client.search_runs([self._experiment], ours)]

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What says that MLflow is away is raised as `OutageError`, its refusals as they are."""
        from mlflow.exceptions import MlflowException

        if not self.answers():
            raise OutageError("its server does not answer")
        try:
            yield
        except MlflowException as error:
            if error.get_http_status_code() < 500 and error.get_http_status_code() != 429:
                raise
            raise OutageError(str(error)) from error
        except (MillraceError, OSError) as error:
            raise OutageError(str(error)) from error

    def _make(self, call: Call) -> None:
        try:
            kind = self._kinds[call["call"]]
            kind(call)
        except (KeyError, TypeError) as error:  # kept by another version of ours
            raise ValueError(f"it is no call of ours: {first_line(error)}") from error

    @cached_property
    def _kinds(self) -> Mapping[str, Callable[[Call], None]]:
        return {
            "create": self._create,
            "batch": self._batch,
            "inputs": self._inputs,
            "text": lambda call: self.client.log_text(self._real(call), call["text"], call["name"]),
            "files": self._files,
            "end": lambda call: self.client.set_terminated(self._real(call), call["status"], call["at"]),
        }

    def _create(self, call: Call) -> None:
        """Make the run, unless it was made before and only its answer was lost."""
        if call.get("again") and self._find(call["run"]):
            return
        tags = {RUN_TAG: call["run"]}
        made = self.client.create_run(self._experiment, start_time=call["at"], run_name=call["name"], tags=tags)
        self._ids[call["run"]] = made.info.run_id

    def _batch(self, call: Call) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            self._real(call),
            metrics=[Metric(name, value, at, step) for name, value, at, step in call["metrics"]],
            params=[Param(name, value) for name, value in call["params"]],
            tags=[RunTag(name, value) for name, value in call["tags"]],
        )

    def _files(self, call: Call) -> None:
        if not Path(call["folder"]).is_dir():
            raise ValueError(f"{call['folder']} is gone")
        self.client.log_artifacts(self._real(call), call["folder"], call["name"] or None)

    def _inputs(self, call: Call) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        used = [InputTag("mlflow.data.context", "training")]
        tables = [Dataset(one["name"], one["digest"], "millrace.lake", one["source"]) for one in call["tables"]]
        self.client.log_inputs(self._real(call), datasets=[DatasetInput(table, used) for table in tables])

    def _real(self, call: Call) -> str:
        run: str = call["run"]
        if run in self._ids or not run.startswith(_OURS):
            return self.id_of(run)
        found = self._find(run)
        if found is None:  # what makes it is kept in another journal
            raise OutageError(f"it has not made the run {run} yet")
        return found

    def _find(self, run: str) -> str | None:
        found = self.client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        if found:
            self._ids[run] = found[0].info.run_id
        return self._ids.get(run)


def now_ms() -> int:
    """The clock as MLflow counts it."""
    return int(time.time() * 1_000)


def files_call(run: str, folder: Path, name: str) -> Call:
    """The files of a folder as the run's artifact `name` (empty: at its root)."""
    return {"call": "files", "run": run, "folder": str(folder), "name": name}


def batch_calls(
    run: str, *, metrics: list[tuple[str, float, int, int]], params: Mapping[str, Any], tags: Mapping[str, Any]
) -> list[Call]:
    """Metrics (name, value, time, step), parameters and tags in as few calls as MLflow's limits let them be."""
    limits = {"metrics": 800, "params": 100, "tags": 100}
    values: dict[str, list[Any]] = {
        "metrics": list(metrics),
        "params": [(name, str(value)[:_LONGEST]) for name, value in params.items()],
        "tags": [(name, str(value)[:_LONGEST]) for name, value in tags.items()],
    }
    count = max(-(-len(values[kind]) // limit) for kind, limit in limits.items())
    return [
        {"call": "batch", "run": run}
        | {kind: values[kind][i * limit : (i + 1) * limit] for kind, limit in limits.items()}
        for i in range(count)
    ]


_LONGEST = 5_000
"""Characters of a parameter or tag."""
