"""One training: every candidate tracked and bundled as it would serve, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace import Candidate, UseCase
from millrace.bundle import open_bundle
from millrace.engine import open_engine
from millrace.errors import TrainingError
from millrace.keys import public_key
from millrace.quality import quality
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import Settings
from training.job import Trained, train
from training.network.loop import Loop
from training.options import TrainOptions
from training.runs import read_artifact

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


@pytest.fixture
def trained(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> Trained:
    return train(use_case, settings, training_set, plan, as_of=as_of)


def runs(settings: Settings) -> list[Any]:
    client = mlflow_client(settings)
    return list(client.search_runs([experiment_id(client, settings, "late")]))


def test_a_training_is_whole(
    trained: Trained, use_case: UseCase, settings: Settings, training_set: TrainingSet, as_of: datetime
) -> None:
    assert [(model.candidate, model.baseline) for model in trained.models] == [
        ("coin", True),
        ("logistic", False),
        ("trees", False),
    ]
    assert [model.engine for model in trained.models] == ["onnx"] * 3
    losses = [model.quality.log_loss for model in trained.models]
    assert losses[0] > losses[1] > losses[2]
    for model in trained.models:
        opened = open_bundle(model.bundle.folder, public_key=public_key(settings))
        contract = opened.contract
        scores = open_engine(opened).predict(contract.encode_frame(trained.holdout))
        assert scores.tolist() == model.scores.tolist()  # what was judged is what serves
        assert model.quality == quality(trained.labels, scores)
        assert (contract.names, contract.trained_as_of) == (training_set.features, as_of)
        assert contract.read_plan["features"] == list(training_set.features)
        assert contract.lineage["lake_versions"] == {"raw/trips": 3}
        assert contract.lineage["holdout"]["rows"] == trained.holdout.height
        assert contract.lineage["run_id"] == model.run_id
        reference = opened.reference()
        assert reference.columns == [*training_set.features, "score", "label"]
        assert reference.height == trained.holdout.height
        assert {one.value for one in model.slices} <= {"AA", "B6", "UA", "(missing)"}


def test_every_run_holds_parameters_metrics_versions_and_the_bundle(trained: Trained, settings: Settings) -> None:
    client = mlflow_client(settings)
    found = {run.info.run_name: run for run in runs(settings)}
    assert set(found) == {"coin", "logistic", "trees"}
    model = trained.models[2]
    run = found["trees"]
    assert run.info.run_id == model.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["max_iter"] == "30"
    assert run.data.metrics["log_loss"] == pytest.approx(model.quality.log_loss)
    assert run.data.tags["lake.raw/trips"] == "3"
    assert run.data.tags["millrace.digest"] == model.bundle.digest
    names = {Path(artifact.path).name for artifact in client.list_artifacts(model.run_id, "model/bundle")}
    assert names == {"model.onnx", "contract.json", "reference.parquet", "manifest.json", "model_card.md"}
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["raw/trips"]
    assert re.fullmatch("[0-9a-f]{40}", run.data.tags["mlflow.source.git.commit"])
    assert run.data.tags["millrace.lock"] == hashlib.sha256(LOCK.read_bytes()).hexdigest()
    assert json.loads(run.data.tags["millrace.machine"]).keys() >= {"cpu", "cores", "memory_mb", "gpus", "system"}
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["seconds"] == model.seconds
    assert run.info.end_time >= run.info.start_time
    assert run.data.tags["millrace.rows"] == model.bundle.contract.lineage["provenance"]["rows"]


def test_the_sample_for_measuring_is_rows_of_the_holdout_in_the_contracts_order(trained: Trained) -> None:
    sample = trained.sample(10)
    assert len(sample) == 10
    contract = trained.models[0].bundle.contract
    first = contract.encode_frame(trained.holdout.head(1))
    assert contract.encode_rows(sample[:1]).tobytes() == first.tobytes()


def test_the_same_seed_and_rows_give_the_same_model(
    trained: Trained, use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    again = train(use_case, settings, training_set, plan, as_of=as_of)
    for first, second in zip(trained.models, again.models, strict=True):
        assert first.bundle.model() == second.bundle.model()
        assert np.array_equal(first.scores, second.scores)


def test_a_candidate_that_raises_ends_the_training_and_leaves_nothing_staged(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    def build(inputs: Sequence[Any]) -> Any:
        raise RuntimeError("no luck")

    broken = replace(use_case, candidates=(Candidate("broken", build),))
    told: list[str] = []
    with pytest.raises(TrainingError, match="'broken' cannot be fitted: RuntimeError: no luck"):
        train(broken, settings, training_set, plan, as_of=as_of, progress=told.append)
    assert [line.split(":")[0] for line in told] == ["coin"]
    assert list((settings.folder("staging") / "late").iterdir()) == []
    assert {run.info.run_name: run.info.status for run in runs(settings)} == {"coin": "FINISHED", "broken": "FAILED"}


def test_rows_that_do_not_suffice_leave_no_trace(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    constant = replace(training_set, frame=training_set.frame.with_columns(label=pl.lit(0, dtype=pl.Int8)))
    with pytest.raises(TrainingError, match="one outcome only"):
        train(use_case, settings, constant, plan, as_of=as_of)
    assert runs(settings) == []


def test_a_constant_and_an_always_missing_feature_do_no_harm(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    frame = training_set.frame.with_columns(one=pl.lit(1.0), none=pl.lit(None, dtype=pl.Float64), all_null=pl.lit(None))
    features = (*training_set.features, "one", "none", "all_null")
    found = train(use_case, settings, replace(training_set, frame=frame, features=features), plan, as_of=as_of)
    assert [model.engine for model in found.models] == ["onnx"] * 3


def test_a_search_fits_with_what_it_found_and_is_recorded(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    logistic = replace(use_case.candidates[0], search={"C": (1e-6, 1.0)})
    told: list[str] = []
    options = TrainOptions(trials=2)
    searched = replace(use_case, candidates=(logistic,))
    found = train(searched, settings, training_set, plan, as_of=as_of, options=options, progress=told.append)
    assert found.models[1].bundle.contract.lineage["params"] == {"C": 1.0}
    half, whole = "█" * 10 + "░" * 10, "█" * 20
    heard = [line.split(",")[0] for line in told if "trial" in line]
    assert heard == [f"logistic: {half} trial 1 of 2", f"logistic: {whole} trial 2 of 2"]
    search = read_artifact(settings, found.models[1].run_id, "search.json")
    assert search is not None
    assert [one["params"]["C"] for one in json.loads(search)["trials"]] == [1e-6, 1.0]


def test_outcomes_of_three_classes_are_trained_and_judged(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, as_of: datetime
) -> None:
    thirds = pl.col("hour").cast(pl.Int8) // 8
    three = replace(use_case, label=replace(use_case.label, classes=("night", "day", "evening")), baseline=None)
    rows = replace(training_set, frame=training_set.frame.with_columns(label=thirds))
    found = train(three, settings, rows, None, as_of=as_of)
    trees = found.models[1]
    assert trees.scores.shape == (found.holdout.height, 3)
    assert trees.quality.accuracy > 0.95
    assert trees.bundle.contract.classes == ("night", "day", "evening")
    assert trees.bundle.contract.read_plan == {}


@pytest.mark.parametrize("name", ["score", "predicted", "version"])
def test_a_feature_with_the_name_of_a_logged_column_is_refused(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime, name: str
) -> None:
    frame = training_set.frame.with_columns(pl.lit(1.0).alias(name))
    rows = replace(training_set, frame=frame, features=(*training_set.features, name))
    with pytest.raises(TrainingError, match=f"'{name}' has the name of a column"):
        train(use_case, settings, rows, plan, as_of=as_of)


def test_a_networks_run_has_its_curves_and_where_it_was_fitted_and_why(
    with_network: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    three = replace(with_network, candidates=(replace(with_network.candidates[0], max_epochs=3, patience=3),))
    (model,) = train(three, settings, training_set, plan, as_of=as_of).models
    client = mlflow_client(settings)
    for curve in ("fit_loss", "watch_loss"):
        points = client.get_metric_history(model.run_id, curve)
        assert [point.step for point in points] == [0, 1, 2]
        assert all(0 < point.value < 2 for point in points)
    device = client.get_run(model.run_id).data.tags["millrace.device"]
    assert re.match(r"(cpu|cuda), (float32|bfloat16): .+", device)
    assert device == model.bundle.contract.lineage["notes"]["device"]


def test_a_training_that_was_interrupted_in_a_step_goes_on_to_the_same_bytes(
    with_network: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = replace(with_network.candidates[0], max_epochs=4, patience=4, batch_size=256)
    case = replace(with_network, candidates=(network,))
    whole = train(case, settings, training_set, plan, as_of=as_of).models[0]
    take, steps = Loop._take_step, 0

    def interrupted(loop: Loop, *given: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 20:
            raise KeyboardInterrupt
        take(loop, *given)

    monkeypatch.setattr(Loop, "_take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(case, settings, training_set, plan, as_of=as_of)
    continued = train(case, settings, training_set, plan, as_of=as_of, options=TrainOptions(resume=True)).models[0]
    assert "continued at epoch" in continued.bundle.contract.lineage["notes"]["device"]
    assert continued.bundle.model() == whole.bundle.model()
    assert continued.scores.tolist() == whole.scores.tolist()
