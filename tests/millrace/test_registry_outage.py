"""MLflow fails at any step, the database refuses, a process dies in between: the alias and the champion stay one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow.exceptions import MlflowException

from millrace.bundle import Bundle, Contract, write_bundle
from millrace.db import Database, ModelRow
from millrace.errors import BundleError, BusyError, MlflowError
from millrace.keys import signing_key
from millrace.registry import experiment_id, mirror, mlflow_client, promote, register, rollback
from millrace.settings import Settings

T0 = datetime(2013, 4, 1, tzinfo=UTC)


class Failing:
    """An MLflow client whose call `at` fails every time, before it has had its effect or, its answer lost, after."""

    def __init__(self, real: Any, at: str, *, after: bool = False, times: int = 1_000) -> None:
        self._real, self._at, self._after, self._times = real, at, after, times

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        return self._failing(real) if name == self._at else real

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            self._times -= 1
            if self._times < 0:
                return real(*args, **given)
            if self._after:
                real(*args, **given)
            raise MlflowException("connection reset by peer")

        return call


@pytest.fixture
def db(settings: Settings, mlflow_template: Path) -> Database:
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(mlflow_template, settings.home / "mlflow.db")
    return Database.open(settings)


@pytest.fixture
def stage(
    settings: Settings, tmp_path: Path, contract: Contract, reference: pl.DataFrame, onnx_model: Callable[..., bytes]
) -> Callable[[], tuple[Bundle, str]]:
    """A new run and its staged bundle."""

    def staged() -> tuple[Bundle, str]:
        client = mlflow_client(settings)
        run = client.create_run(experiment_id(client, settings, "late")).info.run_id
        key, folder = signing_key(settings), tmp_path / "staged" / run
        model = onnx_model([0.5, -1.0])
        return write_bundle(folder, contract=contract, model=model, reference=reference, key=key), run

    return staged


Add = Callable[[], ModelRow]


@pytest.fixture
def add(settings: Settings, db: Database, stage: Callable[[], tuple[Bundle, str]]) -> Add:
    """Register one more challenger of `late`."""

    def one() -> ModelRow:
        bundle, run = stage()
        return register(
            settings, db, bundle, run_id=run, as_of=T0, status="challenger", quality={}, cost={}, verdict={}
        )

    return one


@pytest.fixture
def two(settings: Settings, db: Database, add: Add) -> None:
    """Version 1 serves, version 2 could."""
    add(), add()
    promote(settings, db, "late", 1, as_of=T0, reason="first")


def alias(settings: Settings) -> str:
    return str(mlflow_client(settings).get_model_version_by_alias("late", "champion").tags["millrace.version"])


def state(settings: Settings, db: Database) -> tuple[str, int | None, list[int | None]]:
    """Whom the alias names, who serves, and what was decided."""
    serving = db.champion("late")
    return alias(settings), serving and serving.version, [one.version for one in db.decisions("late")]


def failing(monkeypatch: pytest.MonkeyPatch, at: str, **how: Any) -> None:
    monkeypatch.setattr(mirror, "mlflow_client", lambda settings: Failing(mlflow_client(settings), at, **how))


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("at", "how"),
    [
        ("search_model_versions", {}),
        ("get_registered_model", {}),
        ("set_registered_model_alias", {}),
        ("set_registered_model_alias", {"after": True, "times": 1}),
    ],
)
def test_mlflow_fails_at_a_step_of_a_promotion_and_nothing_has_changed(
    settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch, at: str, how: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, at, **how)
        with pytest.raises(MlflowError, match="MLflow could not"):
            promote(settings, db, "late", 2, as_of=T0, reason="better")
    assert state(settings, db) == ("1", 1, [1])
    promote(settings, db, "late", 2, as_of=T0, reason="better")
    assert state(settings, db) == ("2", 2, [1, 2])


@pytest.mark.usefixtures("two")
def test_a_database_that_refuses_takes_the_alias_back(
    settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        assert alias(settings) == "2"  # it had moved
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(db, "set_champion", broken)
        with pytest.raises(OSError, match="the disk is gone"):
            promote(settings, db, "late", 2, as_of=T0, reason="better")
    assert state(settings, db) == ("1", 1, [1])


@pytest.mark.parametrize("at", ["search_model_versions", "get_registered_model", "set_registered_model_alias"])
def test_a_rollback_does_not_need_mlflow_and_the_alias_follows_later(
    add: Add, settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch, two: None, at: str
) -> None:
    promote(settings, db, "late", 2, as_of=T0, reason="better")
    with monkeypatch.context() as patch:
        failing(patch, at)
        assert rollback(settings, db, "late", as_of=T0, reason="Worse.").version == 1
    assert state(settings, db) == ("2", 1, [1, 2, 1])
    assert db.decisions("late")[-1].reason == "Worse. MLflow did not answer: its alias follows later."
    add()
    assert alias(settings) == "1"


def test_a_rollback_to_a_damaged_bundle_is_refused_without_mlflow_as_well(
    settings: Settings, db: Database, two: None
) -> None:
    promote(settings, db, "late", 2, as_of=T0, reason="better")
    (settings.bundles / "late" / "1" / "model.onnx").write_bytes(b"x")
    away = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(BundleError):
        rollback(away, db, "late", as_of=T0, reason="worse")
    assert state(settings, db) == ("2", 2, [1, 2])


def test_a_first_promotion_that_fails_leaves_no_alias(
    add: Add, settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk is gone")

    add()
    monkeypatch.setattr(db, "set_champion", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        promote(settings, db, "late", 1, as_of=T0, reason="first")
    assert mlflow_client(settings).get_registered_model("late").aliases == {}


@pytest.mark.usefixtures("two")
def test_an_alias_that_was_left_ahead_is_mended_by_the_next_registration(
    add: Add, settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "set_registered_model_alias", after=True)  # as if the process had died: it goes not back either
        with pytest.raises(MlflowError):
            promote(settings, db, "late", 2, as_of=T0, reason="better")
        mlflow_client(settings).set_registered_model_alias("late", "champion", "2")
    assert state(settings, db) == ("2", 1, [1])
    add()
    assert state(settings, db) == ("1", 1, [1])


@pytest.mark.usefixtures("two")
def test_an_alias_that_was_left_ahead_is_mended_by_promoting_the_champion_again(
    settings: Settings, db: Database
) -> None:
    mlflow_client(settings).set_registered_model_alias("late", "champion", "2")
    promote(settings, db, "late", 1, as_of=T0, reason="again")
    assert state(settings, db) == ("1", 1, [1])


@pytest.mark.parametrize(
    "at", ["search_runs", "get_registered_model", "get_run", "create_model_version", "set_model_version_tag"]
)
def test_mlflow_fails_at_a_step_of_a_registration_and_it_can_be_done_again(
    settings: Settings,
    db: Database,
    stage: Callable[[], tuple[Bundle, str]],
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    bundle, run = stage()
    told: dict[str, Any] = {"run_id": run, "as_of": T0, "quality": {}, "cost": {}, "verdict": {}}
    with monkeypatch.context() as patch:
        failing(patch, at)
        with pytest.raises(MlflowError, match="MLflow could not"):
            register(settings, db, bundle, status="challenger", **told)
    assert (list(db.models("late")), bundle.folder.exists()) == ([], True)
    row = register(settings, db, bundle, status="challenger", **told)
    promote(settings, db, "late", row.version, as_of=T0, reason="first")
    assert alias(settings) == str(row.version)


@pytest.mark.usefixtures("two")
def test_one_process_at_a_time_changes_who_serves(add: Add, settings: Settings, db: Database) -> None:
    with db.lease("champion of late"):
        for change in (promote, rollback):
            with pytest.raises(BusyError):
                change(settings, db, "late", version=2, as_of=T0, reason="")
        assert add().version == 3  # a registration does not wait
    assert state(settings, db) == ("1", 1, [1])


def test_without_mlflow_there_is_no_registration_and_the_staged_bundle_stays(
    settings: Settings, db: Database, stage: Callable[[], tuple[Bundle, str]]
) -> None:
    bundle, run = stage()
    away = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})  # the discard port
    told: dict[str, Any] = {"run_id": run, "as_of": T0, "quality": {}, "cost": {}, "verdict": {}}
    with pytest.raises(MlflowError, match="does not answer"):
        register(away, db, bundle, status="challenger", **told)
    assert (list(db.models("late")), bundle.folder.exists()) == ([], True)
