"""MLflow's side of a use case's models: a version for each of ours, its tags, and the alias of the one that serves.

What is told here mirrors the database, which decides; a mirror that fell behind (a process was killed between the two)
is mended by the next registration or promotion.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millrace.db import ModelRow
from millrace.errors import MlflowError
from millrace.registry.model_files import MODEL_FOLDER
from millrace.registry.server import asking_mlflow, experiment_id, mlflow_client, quiet_mlflow
from millrace.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
"""MLflow's alias of the version that serves."""
VERSION_TAG = "millrace.version"
"""Tag of an MLflow model version: the platform's version, usually the same number."""

RUN_TAG = "millrace.run"
"""Tag of an MLflow run: the id that it was spoken of by before MLflow had made it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mirror:
    """The registered model of one use case in MLflow. Versions here are MLflow's own numbers, as it gives them: texts.

    Every method raises `MlflowError` when MLflow does not do what it is asked.
    """

    settings: Settings
    use_case: str
    client: MlflowClient

    @classmethod
    def open(cls, settings: Settings, use_case: str) -> Mirror:
        """Of a use case; `MlflowError` when MLflow does not answer."""
        return cls(settings, use_case, mlflow_client(settings))

    def run(self, run_id: str) -> str:
        """MLflow's id of the run that has this id, or has it in its tag `millrace.run`."""
        with asking_mlflow(self.settings, f"find the run {run_id}"):
            experiment = experiment_id(self.client, self.settings, self.use_case)
            found = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
        return str(found[0].info.run_id) if found else run_id

    def add(self, run_id: str) -> str:
        """A new version: the model that the run logged."""
        from mlflow.exceptions import MlflowException

        with quiet_mlflow(), asking_mlflow(self.settings, f"register a version of {self.use_case}"):
            try:
                self.client.get_registered_model(self.use_case)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self.client.create_registered_model(self.use_case)
            source = f"{self.client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
            made = self.client.create_model_version(self.use_case, source=source, run_id=run_id, await_creation_for=0)
            return str(made.version)

    def tag(self, theirs: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with asking_mlflow(self.settings, f"tag a version of {self.use_case}"):
            for name, value in tags.items():
                self.client.set_model_version_tag(self.use_case, theirs, name, value)

    def version_of(self, row: ModelRow) -> str:
        """The version that mirrors the row; `MlflowError` when MLflow has none."""
        with asking_mlflow(self.settings, f"look for version {row.version} of {self.use_case}"):
            for found in self.client.search_model_versions(f"run_id='{row.run_id}'"):
                if found.name == row.use_case and found.tags.get(VERSION_TAG) == str(row.version):
                    return str(found.version)
        raise MlflowError(
            f"MLflow knows no version {row.version} of {row.use_case}.",
            looked="The platform's database does; nothing was changed.",
            todo="Check that MILLRACE_MLFLOW_TRACKING_URI is the server that the model was trained with.",
        )

    def alias(self) -> str | None:
        """The version that the alias names."""
        with asking_mlflow(self.settings, f"tell who serves {self.use_case}"):
            aliases: Mapping[str, object] = self.client.get_registered_model(self.use_case).aliases
        found = aliases.get(CHAMPION)
        return None if found is None else str(found)

    def point(self, theirs: str | None) -> None:
        """Let the alias name this version, or none."""
        with asking_mlflow(self.settings, f"move the alias {CHAMPION!r} of {self.use_case}"):
            if theirs is None:
                self.client.delete_registered_model_alias(self.use_case, CHAMPION)
            else:
                self.client.set_registered_model_alias(self.use_case, CHAMPION, theirs)

    @contextmanager
    def pointing_at(self, theirs: str) -> Iterator[None]:
        """The alias names this version from now on, unless the body raises: then it names again what it did before."""
        before = self.alias()
        try:
            self.point(theirs)  # an answer that was lost on its way may have moved it, too
            yield
        except BaseException:
            self._point_back(before)
            raise

    def mend(self, champion: ModelRow | None) -> None:
        """Let the alias name the champion, if it does not; a champion of another server's is left alone."""
        if champion is None:
            return
        try:
            theirs = self.version_of(champion)
        except MlflowError as error:
            _log.warning("%s", error)
            return
        if self.alias() != theirs:
            self.point(theirs)

    def _point_back(self, before: str | None) -> None:
        try:
            self.point(before)
        except MlflowError as error:
            _log.warning("The alias %r of %s is mended at the next promotion. %s", CHAMPION, self.use_case, error)
