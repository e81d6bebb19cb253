"""MLflow's client: opened so that it fails soon and in our words, and stays quiet.

Knows where MLflow is and whether it answers; nothing of models.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from millrace.errors import MlflowError, first_line
from millrace.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


def mlflow_client(settings: Settings) -> MlflowClient:
    """A client on `settings.mlflow`; its tables are made at first use (3 s on SQLite). Importing mlflow costs 4 s.

    Raises `MlflowError` when it does not answer; a server is asked once first, since MLflow itself would try for
    minutes.
    """
    _ask(settings.mlflow)
    with quiet_mlflow():
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


@contextmanager
def asking_mlflow(settings: Settings, to_do: str) -> Iterator[None]:
    """What MLflow fails with in the body is raised as `MlflowError` that says what it was asked `to_do`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:  # requests' own errors are OSErrors
        raise MlflowError(
            f"MLflow could not {to_do}.",
            looked=f"Asked {_without_password(settings.mlflow)}: {first_line(error)}.",
            todo="Check that its server is running and type the command again.",
        ) from error


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """MLflow and its migrations tell at level INFO of every table they make."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def _ask(uri: str) -> None:
    import httpx

    if not uri.startswith("http"):
        return
    try:
        httpx.get(f"{uri.rstrip('/')}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise _no_answer(uri, error) from error


def _no_answer(uri: str, error: Exception) -> MlflowError:
    return MlflowError(
        "MLflow's tracking server does not answer.",
        looked=f"Tried {_without_password(uri)}: {first_line(error)}.",
        todo="Check MILLRACE_MLFLOW_TRACKING_URI and that the server is running; the champion is untouched.",
    )


def _without_password(uri: str) -> str:
    return uri.split("@")[-1]
