"""Versions are registered whole, promoted and rolled back; MLflow's alias follows the database."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from millrace.bundle import Contract, write_bundle
from millrace.bundle_files import move_folder
from millrace.db import Database, ModelRow
from millrace.errors import BundleError, GateError, MillraceError, NoChampionError
from millrace.keys import signing_key
from millrace.registry import champion, experiment_id, mlflow_client, promote, register, rollback
from millrace.settings import Settings, read_settings

T0 = datetime(2013, 4, 1, tzinfo=UTC)
Add = Callable[..., ModelRow]


@pytest.fixture
def db(settings: Settings, mlflow_template: Path) -> Database:
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(mlflow_template, settings.home / "mlflow.db")
    return Database.open(settings)


@pytest.fixture
def add(
    settings: Settings,
    db: Database,
    tmp_path: Path,
    contract: Contract,
    reference: pl.DataFrame,
    onnx_model: Callable[..., bytes],
) -> Add:
    """Register one more version of `late`, as a challenger unless told otherwise."""

    def register_one(status: str = "challenger") -> ModelRow:
        client = mlflow_client(settings)
        run = client.create_run(experiment_id(client, settings, "late")).info.run_id
        weights, key = [0.5, float(len(db.models("late")))], signing_key(settings)
        folder = tmp_path / "staged" / run
        bundle = write_bundle(folder, contract=contract, model=onnx_model(weights), reference=reference, key=key)
        verdict = {"passed": status == "challenger", "reasons": ["Memory is 120 MB."]}
        return register(
            settings, db, bundle, run_id=run, as_of=T0, status=status, quality={"rows": 1}, cost={}, verdict=verdict
        )  # type: ignore[arg-type]  # the tests give one of the two

    return register_one


def alias(settings: Settings) -> str:
    return str(mlflow_client(settings).get_model_version_by_alias("late", "champion").tags["millrace.version"])


def test_versions_count_up_and_their_bundles_move_to_their_place(add: Add, db: Database, settings: Settings) -> None:
    rows = [add(), add("refused")]
    assert [(row.version, row.status) for row in rows] == [(1, "challenger"), (2, "refused")]
    assert [Path(row.bundle) for row in rows] == [settings.bundles / "late" / "1", settings.bundles / "late" / "2"]
    assert db.model("late", 2) is not None
    tags = mlflow_client(settings).get_model_version("late", "2").tags
    assert (tags["millrace.version"], tags["millrace.gate"], tags["millrace.digest"]) == (
        "2",
        "refused",
        rows[1].digest,
    )


def test_nothing_serves_before_the_first_promotion(add: Add, db: Database) -> None:
    add()
    with pytest.raises(NoChampionError, match="No model of late serves yet") as caught:
        champion(db, "late")
    assert caught.value.looked == "1 versions are registered."


def test_promoting_moves_champion_and_alias_and_records_why(add: Add, db: Database, settings: Settings) -> None:
    add(), add()
    promote(settings, db, "late", 1, as_of=T0, reason="first")
    promote(settings, db, "late", 2, as_of=T0 + timedelta(days=7), reason="better")
    assert champion(db, "late").version == 2
    assert alias(settings) == "2"
    assert [(one.action, one.version, one.reason) for one in db.decisions("late")] == [
        ("promoted", 1, "first"),
        ("promoted", 2, "better"),
    ]


def test_a_refused_version_is_promoted_only_with_a_reason(add: Add, db: Database, settings: Settings) -> None:
    add("refused")
    with pytest.raises(GateError, match="did not pass its gate") as caught:
        promote(settings, db, "late", 1, as_of=T0, reason="I want it")
    assert caught.value.looked == "Memory is 120 MB."
    assert db.champion("late") is None
    promote(settings, db, "late", 1, as_of=T0, reason="By hand.", override="the limit is being raised")
    assert db.decisions("late")[-1].reason == "By hand. Overridden: the limit is being raised"


def test_a_version_that_is_not_there_names_those_that_are(add: Add, db: Database, settings: Settings) -> None:
    add()
    with pytest.raises(NoChampionError, match="no version 9") as caught:
        promote(settings, db, "late", 9, as_of=T0, reason="")
    assert caught.value.looked == "It has 1."


def test_a_damaged_bundle_is_not_promoted(add: Add, db: Database, settings: Settings) -> None:
    add(), add()
    promote(settings, db, "late", 1, as_of=T0, reason="first")
    (settings.bundles / "late" / "2" / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError):
        promote(settings, db, "late", 2, as_of=T0, reason="better")
    assert champion(db, "late").version == 1
    assert alias(settings) == "1"


def test_rolling_back_lets_the_one_before_serve_again(add: Add, db: Database, settings: Settings) -> None:
    for version in (1, 2, 3):
        add()
        promote(settings, db, "late", version, as_of=T0, reason="")
    assert rollback(settings, db, "late", as_of=T0, reason="worse online").version == 2
    assert alias(settings) == "2"
    assert db.decisions("late")[-1].action == "rolled back"
    assert rollback(settings, db, "late", as_of=T0, reason="", version=1).version == 1


def test_there_is_nothing_to_roll_back_to_before_the_second_champion(
    add: Add, db: Database, settings: Settings
) -> None:
    add(), add()
    promote(settings, db, "late", 1, as_of=T0, reason="")
    with pytest.raises(NoChampionError, match="is the first"):
        rollback(settings, db, "late", as_of=T0, reason="")
    with pytest.raises(NoChampionError, match="Version 2 of late has not served before"):
        rollback(settings, db, "late", as_of=T0, reason="", version=2)


def test_promoting_the_champion_again_mends_the_alias_only(add: Add, db: Database, settings: Settings) -> None:
    add()
    promote(settings, db, "late", 1, as_of=T0, reason="first")
    mlflow_client(settings).delete_registered_model_alias("late", "champion")
    promote(settings, db, "late", 1, as_of=T0, reason="again")
    assert alias(settings) == "1"
    assert len(db.decisions("late")) == 1


def test_a_registration_that_fails_leaves_no_version_behind(
    add: Add, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(row: ModelRow) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(db, "add_model", broken)
        with pytest.raises(OSError, match="the disk is gone"):
            add()
    assert list(db.models("late")) == []
    assert add().version == 2  # MLflow has given number 1 away
    promote(settings, db, "late", 2, as_of=T0, reason="")
    assert alias(settings) == "2"


def test_an_mlflow_that_does_not_answer_is_named(tmp_path: Path) -> None:
    broken = read_settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")  # the discard port
    with pytest.raises(MillraceError, match="does not answer"):
        mlflow_client(broken)


def test_a_second_rollback_goes_one_further_back(add: Add, db: Database, settings: Settings) -> None:
    for version in (1, 2, 3):
        add()
        promote(settings, db, "late", version, as_of=T0, reason="")
    assert rollback(settings, db, "late", as_of=T0, reason="worse").version == 2
    assert rollback(settings, db, "late", as_of=T0, reason="worse too").version == 1
    with pytest.raises(NoChampionError, match="is the first"):
        rollback(settings, db, "late", as_of=T0, reason="")
    assert rollback(settings, db, "late", as_of=T0, reason="", version=3).version == 3
    assert rollback(settings, db, "late", as_of=T0, reason="").version == 1


def test_a_rollback_follows_what_was_decided_last_whatever_moment_it_was_decided_for(
    add: Add, db: Database, settings: Settings
) -> None:
    for version, moment in ((1, T0), (2, T0 + timedelta(days=900)), (3, T0 + timedelta(days=7))):
        add()
        promote(settings, db, "late", version, as_of=moment, reason="")
    assert rollback(settings, db, "late", as_of=T0, reason="worse").version == 2


def test_another_bundle_of_ours_in_the_place_of_a_version_is_not_promoted(
    add: Add, db: Database, settings: Settings
) -> None:
    add(), add()
    shutil.rmtree(settings.bundles / "late" / "2")
    shutil.copytree(settings.bundles / "late" / "1", settings.bundles / "late" / "2")
    with pytest.raises(BundleError, match="not the one that was registered as version 2"):
        promote(settings, db, "late", 2, as_of=T0, reason="better")
    assert db.champion("late") is None


def test_the_parent_that_a_fit_went_on_from_is_told_in_mlflow(
    add: Add, settings: Settings, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    add()
    monkeypatch.setitem(contract.lineage, "parent", 1)
    add()
    versions = [mlflow_client(settings).get_model_version("late", number).tags for number in ("1", "2")]
    assert [tags.get("millrace.parent") for tags in versions] == [None, "1"]


def test_a_run_that_mlflow_made_later_is_found_by_the_id_it_was_spoken_of_by(
    db: Database,
    settings: Settings,
    tmp_path: Path,
    contract: Contract,
    reference: pl.DataFrame,
    onnx_model: Callable[..., bytes],
) -> None:
    client, key = mlflow_client(settings), signing_key(settings)
    made = client.create_run(experiment_id(client, settings, "late"), tags={"millrace.run": "millrace-7"}).info.run_id
    bundle = write_bundle(
        tmp_path / "staged", contract=contract, model=onnx_model([1.0, 1.0]), reference=reference, key=key
    )
    row = register(
        settings, db, bundle, run_id="millrace-7", as_of=T0, status="challenger", quality={}, cost={}, verdict={}
    )
    assert row.run_id == made
    assert client.get_model_version("late", "1").source.endswith(f"{made}/artifacts/model")


def test_a_bundle_moves_between_file_systems_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def other_device(self: Path, target: Path) -> None:
        if self.name == "source":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(self, target)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x")
    monkeypatch.setattr(Path, "rename", other_device)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(BundleError, match="No space left"):
            move_folder(tmp_path / "source", tmp_path / "bundles" / "1")
    assert [list((tmp_path / "bundles").iterdir()), (tmp_path / "source" / "file").read_bytes()] == [[], b"x"]
    move_folder(tmp_path / "source", tmp_path / "bundles" / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["bundles"]
    assert (tmp_path / "bundles" / "1" / "file").read_bytes() == b"x"
