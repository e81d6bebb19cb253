"""A run in MLflow is whole whether MLflow was there all the time, went away in the middle, or came back only later."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace import UseCase
from millrace.db import Database
from millrace.errors import MillraceError
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import Settings
from training.evidence import Cost
from training.job import Trained, train
from training.mlflow_calls import MlflowCalls, OutageError
from training.promote import settle
from training.provenance import TableInput
from training.tracking import Run, Tracking, record_verdicts

CURVES = {"fit_loss": [0.7, 0.6, 0.5]}


def tell(run: Run, bundle: Path) -> None:
    """What a training says of one model."""
    run.log(
        params={"C": 1.0, "shape": (2, 3)}, metrics={"log_loss": 0.6}, tags={"millrace.engine": "onnx"}, curves=CURVES
    )
    run.log_inputs([TableInput("raw/trips", 3, "abc", "/lake/raw/trips")])
    run.log_json({"slices": [1, 2]}, "slices.json")
    run.log_folder(bundle, "bundle")
    run.log_bytes(b"weights", "weights.safetensors")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "staged"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    return folder


def runs(settings: Settings) -> list[Any]:
    client = mlflow_client(settings)
    return list(client.search_runs([experiment_id(client, settings, "late")], order_by=["start_time"]))


def check_whole(settings: Settings, run: Any, tmp_path: Path) -> None:
    """Everything that `tell` says is there, once."""
    client = mlflow_client(settings)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"C": "1.0", "shape": "(2, 3)"}
    assert (run.data.metrics["log_loss"], run.data.tags["millrace.engine"]) == (0.6, "onnx")
    history = client.get_metric_history(run.info.run_id, "fit_loss")
    assert [(one.step, one.value) for one in history] == [(0, 0.7), (1, 0.6), (2, 0.5)]
    (table,) = run.inputs.dataset_inputs
    assert (table.dataset.name, table.dataset.digest) == ("raw/trips", "abc")
    assert json.loads(table.dataset.source)["version"] == 3
    shutil.rmtree(tmp_path / "got", ignore_errors=True)
    (tmp_path / "got").mkdir()
    got = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path / "got")))
    assert (got / "bundle/model.onnx").read_bytes() == b"model"
    assert (got / "weights.safetensors").read_bytes() == b"weights"
    assert json.loads((got / "slices.json").read_text()) == {"slices": [1, 2]}


def judge(settings: Settings, run_id: str, *, passed: bool) -> None:
    """What a training says of one model in the end."""
    verdicts = {run_id: ({"passed": passed, "reasons": []}, {"p99_ms": 3.0})}
    record_verdicts(settings, "late", verdicts, best=run_id, pareto=b"png", points=[{"model": "logistic"}])


class Broken:
    """MLflow's client, which stops to answer before the call with a number, and says so as MLflow does."""

    def __init__(self, client: Any, after: int) -> None:
        self.client, self.left = client, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            from mlflow.exceptions import MlflowException

            self.left -= 1
            if self.left < 0:
                raise MlflowException("API request to http://mlflow/api failed with exception: Connection refused")
            return getattr(self.client, name)(*arguments, **named)

        return call


def broken(tracking: Tracking, after: int) -> Broken:
    """Let MLflow stop to answer after some more calls."""
    lost = Broken(tracking._calls.client, after)
    tracking._calls.__dict__["client"] = lost
    return lost


@pytest.mark.parametrize("after", range(8))
def test_mlflow_gone_before_any_call_leaves_the_whole_run_to_the_next_training(
    settings: Settings, bundle: Path, tmp_path: Path, after: int
) -> None:
    tracking = Tracking(settings, "late")
    tracking._calls._experiment  # noqa: B018  # asked for while MLflow answers
    broken(tracking, after)
    with tracking.run("logistic") as run:
        tell(run, bundle)
    shutil.rmtree(bundle)
    tracking.close()
    kept = settings.home / "mlflow-journal" / "late"
    assert (len(list(kept.glob("*"))) if kept.exists() else 0) == (after < 7)
    Tracking(settings, "late").close()
    (found,) = runs(settings)
    check_whole(settings, found, tmp_path)
    assert not list(kept.glob("*"))


def test_mlflow_back_in_mid_training_gets_what_it_missed_before_the_next_run(
    settings: Settings, bundle: Path, tmp_path: Path
) -> None:
    tracking = Tracking(settings, "late")
    lost = broken(tracking, 3)
    with tracking.run("first") as first:
        tell(first, bundle)
    lost.left = 1_000
    with tracking.run("second") as second:
        tell(second, bundle)
    tracking.close()
    found = runs(settings)
    assert [run.info.run_name for run in found] == ["first", "second"]
    assert [run.info.run_id for run in found] == [first.id, second.id]
    for run in found:
        check_whole(settings, run, tmp_path)


def test_a_run_that_mlflow_has_not_made_has_an_id_of_ours_by_which_it_is_found_later(
    settings: Settings, bundle: Path
) -> None:
    tracking = Tracking(settings, "late")
    lost = broken(tracking, 0)
    with tracking.run("first") as run:
        assert run.id == run.key
    judge(settings, run.key, passed=True)
    lost.left = 1_000
    tracking.close()
    Tracking(settings, "late").close()
    (found,) = runs(settings)
    assert found.data.tags["millrace.run"] == run.key
    assert found.info.run_id == run.id


def test_a_body_that_raises_leaves_a_failed_run(settings: Settings) -> None:
    with pytest.raises(KeyError), Tracking(settings, "late").run("odd"):
        raise KeyError("depth")
    assert [run.info.status for run in runs(settings)] == ["FAILED"]


def test_runs_that_earlier_trainings_left_open_are_ended_as_killed_and_no_others(
    settings: Settings, bundle: Path, tmp_path: Path
) -> None:
    client = mlflow_client(settings)
    tracking = Tracking(settings, "late")
    with tracking.run("whole") as run:
        tell(run, bundle)
    tracking.send({"call": "create", "run": "millrace-left", "name": "left", "at": 0})
    client.create_run(experiment_id(client, settings, "late"), run_name="somebody's")
    Tracking(settings, "late").end_left()
    found = {run.info.run_name: run for run in runs(settings)}
    assert {name: run.info.status for name, run in found.items()} == {
        "whole": "FINISHED",
        "left": "KILLED",
        "somebody's": "RUNNING",
    }
    assert found["left"].info.end_time is not None
    check_whole(settings, found["whole"], tmp_path)


def test_open_runs_wait_for_mlflow(settings: Settings) -> None:
    tracking = Tracking(settings, "late")
    tracking.send({"call": "create", "run": "millrace-left", "name": "left", "at": 0})
    tracking._calls._experiment  # noqa: B018  # asked for while MLflow answers
    lost = broken(tracking, 0)
    tracking.end_left()
    lost.left = 1_000
    tracking.end_left()
    assert [run.info.status for run in runs(settings)] == ["KILLED"]


def test_a_call_that_mlflow_refuses_is_told_at_once(settings: Settings) -> None:
    from mlflow.exceptions import MlflowException

    with Tracking(settings, "late").run("odd") as run:
        run.log(params={"a": 1}, metrics={}, tags={}, curves={})
        with pytest.raises(MlflowException):  # a parameter does not change
            run.log(params={"a": 2}, metrics={}, tags={}, curves={})


def test_a_kept_call_that_mlflow_refuses_does_not_keep_the_others_back(settings: Settings, bundle: Path) -> None:
    tracking = Tracking(settings, "late")
    broken(tracking, 1)
    with tracking.run("first") as run:
        run.log(params={"a": 1}, metrics={}, tags={}, curves={})
        run.log(params={"a": 2}, metrics={"log_loss": 0.5}, tags={}, curves={})
    tracking.close()
    Tracking(settings, "late").close()
    (found,) = runs(settings)
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})


@pytest.mark.parametrize(
    "call",
    [
        {"call": "dance", "run": "x"},
        {"run": "x"},
        {"call": "end"},
        {"call": "files", "run": "x", "folder": "/nowhere/at/all", "name": "bundle"},
    ],
)
def test_a_kept_call_that_makes_no_sense_does_not_keep_the_others_back(
    settings: Settings, bundle: Path, call: dict[str, Any]
) -> None:
    tracking = Tracking(settings, "late")
    broken(tracking, 1)
    with tracking.run("first") as run:
        run.log(params={"a": 1}, metrics={}, tags={}, curves={})
        assert tracking._own is not None
        calls = tracking._own.folder / "calls.jsonl"
        with calls.open("a") as file:
            file.write(json.dumps(call | {"folder": "gone"} if "folder" in call else call) + "\n")
    tracking.close()
    Tracking(settings, "late").close()
    (found,) = runs(settings)
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})
    assert not list(calls.parent.parent.iterdir())


def test_without_mlflow_a_training_does_not_begin(settings: Settings) -> None:
    away = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(MillraceError, match="MLflow's tracking server does not answer"):
        Tracking(away, "late")
    assert not (settings.home / "mlflow-journal").exists()


def test_more_than_mlflow_takes_at_once_arrives_whole(settings: Settings) -> None:
    with Tracking(settings, "late").run("long") as run:
        run.log(
            params={f"p{i}": i for i in range(130)},
            metrics={},
            tags={f"t{i}": "x" * 6_000 for i in range(120)},
            curves={"loss": [float(i) for i in range(1_700)]},
        )
    (found,) = runs(settings)
    assert len(found.data.params) == 130
    assert sum(name.startswith("t") for name in found.data.tags) == 120
    assert len(mlflow_client(settings).get_metric_history(found.info.run_id, "loss")) == 1_700


def test_a_verdict_is_added_to_a_run(settings: Settings) -> None:
    with Tracking(settings, "late").run("logistic") as run:
        pass
    judge(settings, run.id, passed=False)
    (found,) = runs(settings)
    assert (found.data.tags["millrace.verdict"], found.data.metrics["p99_ms"]) == ("refused", 3.0)


def train_while_away(request: Any, back: bool) -> tuple[Trained, Broken]:
    """A training whose MLflow goes away after four calls, and is back before the training ends, or not."""
    settings, use_case = request.getfixturevalue("settings"), request.getfixturevalue("use_case")
    tracking = Tracking(settings, use_case.name)
    lost = broken(tracking, 4)

    def heard(line: str) -> None:
        if back and line.startswith("trees"):
            lost.left = 10_000

    rows, plan = request.getfixturevalue("training_set"), request.getfixturevalue("plan")
    at = request.getfixturevalue("as_of")
    return train(use_case, settings, rows, plan, as_of=at, tracking=tracking, progress=heard), lost


def test_a_training_goes_on_while_mlflow_is_away_and_its_runs_are_whole_when_it_is_back(
    request: pytest.FixtureRequest, settings: Settings
) -> None:
    trained, _ = train_while_away(request, back=True)
    found = {run.info.run_name: run for run in runs(settings)}
    assert {name: run.info.status for name, run in found.items()} == dict.fromkeys(
        ("coin", "logistic", "trees"), "FINISHED"
    )
    assert [model.run_id for model in trained.models] == [
        found[model.candidate].info.run_id for model in trained.models
    ]
    for model in trained.models:
        assert found[model.candidate].data.metrics["log_loss"] == pytest.approx(model.quality.log_loss)
        names = [one.path for one in mlflow_client(settings).list_artifacts(model.run_id, "model/bundle")]
        assert "model/bundle/manifest.json" in names


def test_a_training_that_ends_while_mlflow_is_away_is_told_by_the_next_one(
    request: pytest.FixtureRequest, settings: Settings
) -> None:
    trained, _ = train_while_away(request, back=False)
    assert [model.candidate for model in trained.models] == ["coin", "logistic", "trees"]
    Tracking(settings, "late").close()
    assert [run.info.status for run in runs(settings)] == ["FINISHED"] * 3


class Server:
    """MLflow's own server on this test's database, in a thread of this process, that can go away and come back."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.settings = settings.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{self.port}"})

    def start(self) -> None:
        import uvicorn
        from mlflow.server.fastapi_app import app

        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()


@pytest.fixture
def server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    database, artifacts = f"sqlite:///{settings.home / 'mlflow.db'}", settings.home / "artifacts"
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", database)
    monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", database)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", artifacts.as_uri())
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", database)
    kept = {  # by its modules, for the whole process, as soon as a request came
        "mlflow.server.handlers": ("_tracking_store", "_model_registry_store", "_artifact_repo"),
        "mlflow.tracking._tracking_service.utils": ("_tracking_uri",),
        "mlflow.tracking._model_registry.utils": ("_registry_uri",),
    }
    for module, names in kept.items():
        for name in names:
            monkeypatch.setattr(f"{module}.{name}", None)
    found = Server(settings)
    found.start()
    yield found
    found.stop()


def test_a_server_that_goes_away_in_mid_run_gets_everything_when_it_is_back(
    server: Server, bundle: Path, tmp_path: Path
) -> None:
    tracking = Tracking(server.settings, "late")
    with tracking.run("first") as run:
        server.stop()
        tell(run, bundle)
    with tracking.run("second") as run:
        tell(run, bundle)
    tracking.close()
    server.start()
    Tracking(server.settings, "late").close()
    found = runs(server.settings)
    assert [one.info.run_name for one in found] == ["first", "second"]
    for one in found:
        check_whole(server.settings, one, tmp_path)


def test_without_mlflow_at_the_end_nothing_is_registered_and_the_next_training_tells_the_runs(
    request: pytest.FixtureRequest, server: Server, use_case: UseCase
) -> None:
    settings, at = server.settings, request.getfixturevalue("as_of")
    rows, plan = request.getfixturevalue("training_set"), request.getfixturevalue("plan")
    db = Database.open(settings)
    cheap = Cost({"p50_ms": 0.01, "p99_ms": 0.05, "memory_mb": 5.0})
    first = settle(
        use_case, settings, db, train(use_case, settings, rows, plan, as_of=at), lambda _: cheap, parity=None, as_of=at
    )
    assert first.promoted

    def heard(line: str) -> None:
        if line.startswith("coin"):
            server.stop()

    again = train(use_case, settings, rows, plan, as_of=at, progress=heard)
    with pytest.raises(MillraceError, match="MLflow's tracking server does not answer") as raised:
        settle(use_case, settings, db, again, lambda _: cheap, parity=None, as_of=at)
    assert "MILLRACE_MLFLOW_TRACKING_URI" in str(raised.value)
    assert [(row.version, row.status) for row in db.models("late")] == [(1, "champion")]
    server.start()
    Tracking(settings, "late").close()  # as the next training begins
    found = [run for run in runs(settings) if run.info.run_id not in {one.model.run_id for one in first.judged}]
    assert {(run.info.run_name, run.info.status) for run in found} == {
        (name, "FINISHED") for name in ("coin", "logistic", "trees")
    }
    assert all("millrace.verdict" in run.data.tags for run in found)
    assert mlflow_client(settings).get_model_version_by_alias("late", "champion").run_id == first.version.run_id


def test_an_outage_is_told_from_a_refusal(settings: Settings) -> None:
    calls = MlflowCalls(settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"}), "late")
    assert not calls.answers()
    with pytest.raises(OutageError):
        calls.make({"call": "end", "run": "x", "status": "FINISHED", "at": 0})
