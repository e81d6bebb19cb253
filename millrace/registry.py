"""The models of a use case: registered, promoted, rolled back; MLflow and our database behind few functions.

The database says who serves; MLflow's model versions, tags and alias `champion` mirror it, so that its own clients and
UI find the same models. A bundle lies in `settings.bundles/<use case>/<version>` from its registration on and never
changes. What makes or judges models is the training room's business.
"""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from millrace.bundle import Bundle, open_bundle
from millrace.db import Database, ModelRow
from millrace.errors import GateError, MillraceError, NoChampionError, first_line
from millrace.keys import public_key
from millrace.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
"""MLflow's alias of the version that serves."""
VERSION_TAG = "millrace.version"
"""Tag of an MLflow model version: the platform's version, usually the same number."""


def mlflow_client(settings: Settings) -> MlflowClient:
    """A client on `settings.mlflow`; its tables are made at first use (3 s on SQLite). Importing mlflow costs 4 s.

    Raises `MillraceError` when it does not answer; a server is asked once first, since MLflow itself would try for
    minutes.
    """
    _ask(settings.mlflow)
    with _quiet_mlflow():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            client = MlflowClient(tracking_uri=settings.mlflow, registry_uri=settings.mlflow)
            client.search_experiments(max_results=1)
        except (MlflowException, OSError) as error:
            raise _no_answer(settings.mlflow, error) from error
    return client


def experiment_id(client: MlflowClient, settings: Settings, use_case: str) -> str:
    """The use case's experiment, made at first use; embedded, its artifacts lie in the home folder's `mlruns`."""
    found = client.get_experiment_by_name(use_case)
    if found is not None:
        return str(found.experiment_id)
    embedded = settings.mlflow.startswith(("sqlite:", "file:"))
    location = (settings.folder("mlruns") / use_case).as_uri() if embedded else None
    return str(client.create_experiment(use_case, artifact_location=location))


def register(
    settings: Settings,
    db: Database,
    bundle: Bundle,
    *,
    run_id: str,
    as_of: datetime,
    status: Literal["challenger", "refused"],
    quality: Mapping[str, Any],
    cost: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> ModelRow:
    """Make a bundle of one of our runs a version: in MLflow, in the folder of bundles, and last in the database.

    The staged folder moves. Fails half-way, the database knows nothing of it and the next version takes another number.
    """
    contract = bundle.contract
    client = mlflow_client(settings)
    theirs = _create_version(client, contract.use_case, run_id)
    version = max(int(theirs), db.next_version(contract.use_case))
    folder = settings.bundles / contract.use_case / str(version)
    _move(bundle.folder, folder)
    moved = open_bundle(folder, public_key=public_key(settings))
    tags = {
        VERSION_TAG: str(version),
        "millrace.digest": moved.digest,
        "millrace.gate": "passed" if status == "challenger" else "refused",
    }
    for name, value in tags.items():
        client.set_model_version_tag(contract.use_case, theirs, name, value)
    row = ModelRow(
        use_case=contract.use_case,
        version=version,
        candidate=contract.candidate,
        run_id=run_id,
        bundle=str(folder),
        digest=moved.digest,
        as_of=as_of,
        created_at=datetime.now(UTC),
        status=status,
        quality=dict(quality),
        cost=dict(cost),
        verdict=dict(verdict),
    )
    db.add_model(row)
    return row


def promote(
    settings: Settings,
    db: Database,
    use_case: str,
    version: int,
    *,
    as_of: datetime,
    reason: str,
    override: str = "",
    action: str = "promoted",
) -> ModelRow:
    """Let `version` serve: its bundle is verified, the database switches in one transaction, MLflow's alias follows.

    Promoting the champion again only mends the alias. Raises `GateError` when the version failed its gate and no
    `override` says why it should serve all the same, `NoChampionError` when there is no such version, `BundleError`
    when its bundle is not whole.
    """
    row = _version(db, use_case, version)
    if row.status == "refused" and not override:
        failed = [str(one) for one in row.verdict.get("reasons", [])][:3]
        raise GateError(
            f"Version {version} of {use_case} did not pass its gate.",
            looked=" ".join(failed),
            todo='Promote another one, or say why it may serve all the same: --override "…".',
        )
    open_bundle(Path(row.bundle), public_key=public_key(settings))
    if row.status != "champion":
        why = f"{reason} Overridden: {override}" if override else reason
        db.set_champion(use_case, version, as_of=as_of, reason=why, action=action)
    _point_alias(mlflow_client(settings), row)
    return _version(db, use_case, version)


def rollback(
    settings: Settings, db: Database, use_case: str, *, as_of: datetime, reason: str, version: int | None = None
) -> ModelRow:
    """Let an earlier champion serve again: `version`, or the last one that served before today's."""
    current = champion(db, use_case)
    served = [number for _, number in db.champions(use_case) if number != current.version]
    if version is not None and version not in served:
        raise NoChampionError(
            f"Version {version} of {use_case} has not served before.",
            looked=f"Before version {current.version} served: {', '.join(map(str, dict.fromkeys(served))) or 'none'}.",
        )
    if not served:
        raise NoChampionError(
            f"There is nothing to roll back to: version {current.version} of {use_case} is the first."
        )
    target = served[-1] if version is None else version
    return promote(
        settings, db, use_case, target, as_of=as_of, reason=reason, override="it served before", action="rolled back"
    )


def champion(db: Database, use_case: str) -> ModelRow:
    """The version that serves; `NoChampionError` when none does yet."""
    found = db.champion(use_case)
    if found is None:
        raise NoChampionError(
            f"No model of {use_case} serves yet.",
            looked=f"{len(db.models(use_case))} versions are registered.",
            todo=f"Train one: millrace train {use_case}.",
        )
    return found


def _version(db: Database, use_case: str, version: int) -> ModelRow:
    found = db.model(use_case, version)
    if found is None:
        known = [str(row.version) for row in db.models(use_case)]
        raise NoChampionError(
            f"{use_case} has no version {version}.", looked=f"It has {', '.join(known) if known else 'no version yet'}."
        )
    return found


def _ask(uri: str) -> None:
    import httpx

    if not uri.startswith("http"):
        return
    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise _no_answer(uri, error) from error


def _no_answer(uri: str, error: Exception) -> MillraceError:
    return MillraceError(
        "MLflow's tracking server does not answer.",
        looked=f"Tried {uri.split('@')[-1]}: {first_line(error)}.",
        todo="Check MILLRACE_MLFLOW_TRACKING_URI and that the server is running; the champion is untouched.",
    )


def _create_version(client: MlflowClient, use_case: str, run_id: str) -> str:
    """A model version of the run's `bundle` artifact; the number that MLflow gives it."""
    from mlflow.exceptions import MlflowException

    with _quiet_mlflow():
        try:
            client.get_registered_model(use_case)
        except MlflowException:
            client.create_registered_model(use_case)
        source = f"{client.get_run(run_id).info.artifact_uri}/bundle"
        return str(client.create_model_version(use_case, source=source, run_id=run_id, await_creation_for=0).version)


def _point_alias(client: MlflowClient, row: ModelRow) -> None:
    """Set the alias to the MLflow version of the row's run."""
    for found in client.search_model_versions(f"run_id='{row.run_id}'"):
        if found.name == row.use_case and found.tags.get(VERSION_TAG) == str(row.version):
            client.set_registered_model_alias(row.use_case, CHAMPION, found.version)
            return
    raise MillraceError(
        f"MLflow knows no version {row.version} of {row.use_case}, so its alias {CHAMPION!r} was not moved.",
        looked="The platform's database has switched: servers use the new version.",
        todo="Check that MILLRACE_MLFLOW_TRACKING_URI is the server that the model was trained with.",
    )


def _move(source: Path, target: Path) -> None:
    """Move a folder so that `target` appears whole, also between file systems; what lay there unregistered goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = Path(tempfile.mkdtemp(prefix=".moving-", dir=target.parent))
        shutil.copytree(source, aside, dirs_exist_ok=True)
        aside.rename(target)
        shutil.rmtree(source)


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """MLflow and its migrations tell at level INFO of every table they make."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
