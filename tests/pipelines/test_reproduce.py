"""A recorded model is made again from what it was made of, and what differs is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace import Candidate, Integer, Real
from millrace.cli import main
from millrace.db import ModelRow
from millrace.errors import LakeError, TrainingError
from millrace.lake.care import vacuum
from pipelines import data
from pipelines.aside import rows_aside
from pipelines.following import follow
from pipelines.launch import Job
from pipelines.reproduce import fixed_space, reproduce
from pipelines.workspace import Workspace, open_workspace
from training.job import Trained, TrainedModel, train
from training.options import TrainOptions

CASES = Path(__file__).parent / "cases"
START = datetime(2024, 1, 20, tzinfo=UTC)


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything that lies in a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Trained]]:
    """A home folder in which the tiny use case's models were trained as of START, and these models."""
    home = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        patch.setenv("MILLRACE_HOME", str(home))
        with open_workspace("taxi") as ws:
            data.ingest(ws, as_of=START)
            rows, plan = rows_aside(ws.use_case, ws.settings, ws.lake, as_of=START)
            yield home, train(ws.use_case, ws.settings, rows, plan, as_of=START)


@pytest.fixture
def ws(trained: tuple[Path, Trained], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(trained[0]))
    with open_workspace("taxi") as workspace:
        yield workspace


@pytest.fixture
def model(trained: tuple[Path, Trained]) -> TrainedModel:
    """The candidate's model."""
    return trained[1].models[1]


def test_a_run_is_made_again_equal_and_the_platform_is_only_read(ws: Workspace, model: TrainedModel) -> None:
    before = files_of(ws.settings.home / "lake"), files_of(ws.settings.home / "staging")
    found = reproduce(ws, model.run_id)
    assert found.equal, found
    assert (found.model, found.rows_equal, found.model_equal, found.max_score_difference) == ("logistic", True, True, 0)
    assert found.changed == ()
    assert (files_of(ws.settings.home / "lake"), files_of(ws.settings.home / "staging")) == before


def test_the_baseline_can_be_made_again_too(ws: Workspace, trained: tuple[Path, Trained]) -> None:
    found = reproduce(ws, trained[1].models[0].run_id)
    assert (found.model, found.equal) == ("constant", True)


@pytest.fixture(scope="module")
def network(network_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, Trained]]:
    """A platform with a network that was searched for and its variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(network_cases))
        patch.setenv("MILLRACE_HOME", str(tmp_path_factory.mktemp("network")))
        with open_workspace("taxi_net") as ws:
            data.ingest(ws, as_of=START)
            rows, plan = rows_aside(ws.use_case, ws.settings, ws.lake, as_of=START)
            yield ws, train(ws.use_case, ws.settings, rows, plan, as_of=START, options=TrainOptions(trials=2))


@pytest.mark.parametrize("name", ["net", "net+int8"])
def test_a_network_that_was_searched_for_and_its_variant_are_made_again_equal(
    network: tuple[Workspace, Trained], name: str
) -> None:
    ws, made = network
    (model,) = (one for one in made.models if one.candidate == name)
    lineage = model.bundle.contract.lineage
    assert lineage["root_params"]["learning_rate"] > 0
    found = reproduce(ws, model.run_id)
    assert found.equal, found
    assert (found.model, found.model_equal, found.max_score_difference) == (name, True, 0)


def test_a_registered_version_is_found_by_its_number(ws: Workspace, model: TrainedModel) -> None:
    row = ModelRow("taxi", 7, "logistic", model.run_id, "b", "d", START, START, "refused")
    ws.db.add_model(row)
    assert reproduce(ws, "7").run == model.run_id


def test_rows_that_came_later_do_not_matter(ws: Workspace, model: TrainedModel) -> None:
    late = (
        ws.lake.scan("raw/done")
        .collect()
        .with_columns(late=~pl.col("late"), known_at=pl.col("known_at") + timedelta(minutes=1))
    )
    ws.lake.merge("raw/done", late, key=["trip"])  # every outcome is corrected
    assert reproduce(ws, model.run_id).equal


def test_a_changed_model_is_told_and_ends_with_1(
    ws: Workspace, model: TrainedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(inputs: Any, C: float = 1.0) -> Any:
        return ws.use_case.candidates[0].build(inputs, C=0.01)  # type: ignore[union-attr]  # the case has no network

    changed = replace(ws.use_case, candidates=(Candidate("logistic", other),))
    monkeypatch.setattr("pipelines.workspace.load_use_case", lambda name, settings: changed)
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "taxi", model.run_id, "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (end.value.code, shown["equal"], shown["rows_equal"], shown["model_equal"]) == (1, False, True, False)
    assert shown["max_score_difference"] > 0


def test_a_process_that_follows_makes_the_same_models_and_leaves_nothing(ws: Workspace) -> None:
    before = set(files_of(ws.settings.home))
    follow(Job("taxi", START, TrainOptions()))
    assert set(files_of(ws.settings.home)) == before


def test_other_rows_are_told(ws: Workspace, model: TrainedModel) -> None:
    shorter = replace(ws.use_case, training=replace(ws.use_case.training, history=timedelta(days=15)))
    found = reproduce(replace(ws, use_case=shorter), model.run_id)
    assert (found.equal, found.rows_equal) == (False, False)


def test_other_libraries_are_told(ws: Workspace, model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.provenance._lock", lambda: ("0" * 64, "requirements.lock"))
    found = reproduce(ws, model.run_id)
    assert found.equal  # they may differ without a difference
    assert found.changed == ("requirements.lock: other versions of libraries",)


@pytest.mark.parametrize("run", ["nothing", "it's", "99", "0" * 32])
def test_a_run_that_does_not_exist_is_told(ws: Workspace, run: str) -> None:
    with pytest.raises(TrainingError, match="MLflow knows no run"):
        reproduce(ws, run)


def test_a_candidate_that_is_gone_is_told(ws: Workspace, model: TrainedModel) -> None:
    renamed = replace(ws.use_case, candidates=(replace(ws.use_case.candidates[0], name="other"),))
    with pytest.raises(TrainingError, match="no candidate 'logistic' any more"):
        reproduce(replace(ws, use_case=renamed), model.run_id)


def test_versions_that_were_vacuumed_are_told(ws: Workspace, model: TrainedModel) -> None:
    ws.lake.replace("raw/planned", ws.lake.scan("raw/planned").collect())
    vacuum(ws.lake, "raw/planned", older_than=timedelta(0))
    with pytest.raises(LakeError, match="files are gone"):
        reproduce(ws, model.run_id)


@pytest.mark.parametrize(
    ("space", "params", "expected"),
    [
        ({"C": (1.0, 0.1)}, {"C": 0.1}, {"C": (0.1,)}),
        ({"shape": ((8, 8), (16,))}, {"shape": "(16,)"}, {"shape": ((16,),)}),
        ({"flag": (0, False, True)}, {"flag": False}, {"flag": (False,)}),
        (
            {"rate": Real(0.1, 1.0), "depth": Integer(1, 9)},
            {"rate": 0.25, "depth": 3},
            {"rate": (0.25,), "depth": (3,)},
        ),
        ({"new": (1, 2)}, {}, {"new": (1, 2)}),
        ({"C": (1.0,)}, {"C": 3.0}, {"C": (3.0,)}),
    ],
)
def test_a_space_is_narrowed_to_what_was_recorded(
    space: dict[str, Any], params: dict[str, Any], expected: dict[str, Sequence[Any]]
) -> None:
    found = fixed_space(space, params)
    assert {name: tuple(values) for name, values in found.items()} == expected  # type: ignore[arg-type]  # all lists
