"""A recorded run, read back from MLflow: what its model was made from, and files of it.

Whether MLflow's run or the database's version is asked for, one run answers. This module changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from millrace.bundle import Bundle, open_bundle
from millrace.errors import TrainingError
from millrace.keys import public_key
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import Settings
from training.mlflow_calls import RUN_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BUNDLES = ("model/bundle", "bundle")
"""Where a run has its bundle; the second in runs of earlier versions."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One finished run of a use case: its id in MLflow, its model's name, and the bundle as it was signed."""

    id: str
    model: str
    bundle: Bundle

    @property
    def lineage(self) -> Mapping[str, Any]:
        """What the model was made from, as its contract tells it."""
        return self.bundle.contract.lineage


def read_run(settings: Settings, use_case: str, run: str, into: Path) -> RecordedRun:
    """The run of this id (MLflow's, or the one of ours in its tag), its bundle brought to the folder `into`, verified.

    Raises `TrainingError` when there is no such run or it left no model, `BundleError` when its bundle is not whole.
    """
    client = mlflow_client(settings)
    found = _find(client, [experiment_id(client, settings, use_case)], run)
    if found is None:
        raise TrainingError(
            f"MLflow knows no run {run!r} of {use_case}.",
            looked=f"Its experiment is {use_case!r}.",
            todo="Give a run's id as MLflow shows it, or the number of a registered version: "
            f"millrace verdict {use_case}.",
        )
    for name in _BUNDLES:
        folder = _fetch(client, found.info.run_id, name, into)
        if folder is not None:
            bundle = open_bundle(folder, public_key=public_key(settings))
            return RecordedRun(found.info.run_id, bundle.contract.candidate, bundle)
    raise TrainingError(
        f"The run {run!r} of {use_case} left no model: its state is {found.info.status.lower()}.",
        todo="Choose one that finished.",
    )


def read_artifact(settings: Settings, run_id: str, name: str) -> bytes | None:
    """The bytes of a run's artifact, None when there is no such run or it has no such one."""
    client = mlflow_client(settings)
    found = _find(client, [one.experiment_id for one in client.search_experiments()], run_id)
    with TemporaryDirectory() as folder:
        file = None if found is None else _fetch(client, found.info.run_id, name, Path(folder))
        return None if file is None else file.read_bytes()


def _find(client: MlflowClient, experiments: list[str], run: str) -> Any:
    """The run of this id, or, when MLflow was away as it began, of this id of ours; None outside the experiments."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run)
    except MlflowException:
        if "'" in run:  # no id has one, and it would end the text of the filter
            return None
        tagged = client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        return tagged[0] if tagged else None
    return found if found.info.experiment_id in experiments else None


def _fetch(client: MlflowClient, run_id: str, name: str, into: Path) -> Path | None:
    """Bring an artifact into a folder; where it lies then, or None when there is none."""
    parent = str(Path(name).parent)
    listed = client.list_artifacts(run_id, None if parent == "." else parent)
    if name not in {one.path for one in listed}:
        return None
    into.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, name, str(into)))
