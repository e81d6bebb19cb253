"""From trained models to a champion, with a decision and its reasons each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from features.parity import Mismatch, Parity
from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace import Budget, UseCase, at_least
from millrace.bundle import Bundle
from millrace.db import Database
from millrace.registry import mlflow_client
from millrace.settings import Settings
from training.evidence import Champion, Cost, Evidence, Judged, Measure
from training.job import Trained, train
from training.options import TrainOptions
from training.promote import Outcome, choose, settle
from training.runs import read_artifact

CHEAP = {"p50_ms": 0.01, "p99_ms": 0.05, "memory_mb": 5.0, "bundle_mb": 0.1}
SAME = Parity(rows=300, values=1_200, mismatches=0, first=(), seconds=0.1)


def costing(**changed: dict[str, float]) -> Measure:
    """A meter by which every model is cheap, but for what is given by a candidate's name."""

    def measure(bundle: Bundle) -> Cost:
        return Cost(CHEAP | changed.get(bundle.contract.candidate, {}))

    return measure


def judged_by(
    use_case: UseCase, settings: Settings, trained: Trained, measure: Measure, champion: Champion | None = None
) -> list[Judged]:
    as_of = trained.as_of
    return Evidence(use_case, settings, trained, use_case.budget, SAME, champion, measure, as_of, seed=0).judged()


@pytest.fixture
def db(settings: Settings) -> Database:
    return Database.open(settings)


@pytest.fixture
def trained(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> Trained:
    return train(use_case, settings, training_set, plan, as_of=as_of)


@pytest.fixture
def first(use_case: UseCase, settings: Settings, db: Database, trained: Trained, as_of: datetime) -> Outcome:
    return settle(use_case, settings, db, trained, costing(), parity=SAME, as_of=as_of, why="First training")


def test_the_best_that_passes_becomes_the_first_champion(
    first: Outcome, db: Database, settings: Settings, trained: Trained
) -> None:
    serving = db.champion("late")
    assert first.promoted
    assert serving is not None
    assert (serving.version, serving.candidate, serving.status) == (1, "trees", "champion")
    assert serving.verdict["passed"] is True
    assert serving.cost == CHEAP
    assert Path(serving.bundle) == settings.bundles / "late" / "1"
    assert serving.digest == trained.models[2].bundle.digest
    assert first.reason.startswith(
        "First training. trees is promoted. It keeps all 3 limits of its budget. "
        "Asked again online, 300 training rows give the same 1,200 feature values. It beats the baseline: "
    )
    assert not any(model.bundle.folder.exists() for model in trained.models)
    alias = mlflow_client(settings).get_model_version_by_alias("late", "champion")
    assert alias.run_id == serving.run_id


def test_every_run_holds_its_verdict_and_cost(first: Outcome, settings: Settings) -> None:
    client = mlflow_client(settings)
    for one in first.judged:
        run = client.get_run(one.model.run_id)
        assert run.data.tags["millrace.verdict"] == ("passed" if one.verdict.passed else "refused")
        assert run.data.metrics["p99_ms"] == CHEAP["p99_ms"]
        assert "verdict.json" in {artifact.path for artifact in client.list_artifacts(one.model.run_id)}


def test_an_equal_challenger_is_refused_and_the_champion_stays(
    first: Outcome,
    use_case: UseCase,
    settings: Settings,
    db: Database,
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
) -> None:
    again = train(use_case, settings, training_set, plan, as_of=as_of)
    outcome = settle(use_case, settings, db, again, costing(), parity=SAME, as_of=as_of, why="A look")
    serving = db.champion("late")
    assert not outcome.promoted
    assert serving is not None
    assert serving.version == first.version.version
    assert [(row.version, row.status) for row in db.models("late")] == [(2, "refused"), (1, "champion")]
    last = db.decisions("late")[-1]
    assert (last.action, last.version) == ("refused", 2)
    assert "equal to that of champion version 1" in last.reason
    assert last.evidence["verdict"]["passed"] is False


def test_a_better_challenger_takes_over(
    first: Outcome,
    use_case: UseCase,
    settings: Settings,
    db: Database,
    training_rows: Callable[..., pl.DataFrame],
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
) -> None:
    later = as_of + timedelta(days=40)
    turned = training_rows(later, seed=9).with_columns(label=1 - pl.col("label"))  # the world has changed
    trained = train(use_case, settings, replace(training_set, frame=turned), plan, as_of=later)
    outcome = settle(use_case, settings, db, trained, costing(), parity=SAME, as_of=later)
    serving = db.champion("late")
    assert outcome.promoted
    assert serving is not None
    assert serving.version == 2
    assert "better beyond chance" in outcome.reason
    assert [version for _, version in db.champions("late")] == [1, 2]


def test_no_model_within_the_budget_means_no_champion(
    use_case: UseCase, settings: Settings, db: Database, trained: Trained, as_of: datetime
) -> None:
    strict = replace(use_case, budget=Budget(at_least(roc_auc=0.999)))
    outcome = settle(strict, settings, db, trained, costing(), parity=SAME, as_of=as_of)
    assert not outcome.promoted
    assert db.champion("late") is None
    assert outcome.version.status == "refused"
    assert "ROC AUC is" in outcome.reason
    assert "must be at least 0.999" in outcome.reason


def test_the_baseline_never_serves(use_case: UseCase, settings: Settings, trained: Trained) -> None:
    dear = {"memory_mb": 900.0}
    open_budget = replace(use_case, budget=Budget(use_case.budget.limits[1:]))
    judged = judged_by(open_budget, settings, trained, costing(logistic=dear, trees=dear))
    assert [one.verdict.passed for one in judged] == [True, False, False]
    assert choose(judged, open_budget.budget).model.candidate == "trees"


def test_a_dearer_model_of_lower_loss_gives_way_when_it_misses_the_budget(
    use_case: UseCase, settings: Settings, trained: Trained
) -> None:
    judged = judged_by(use_case, settings, trained, costing(trees={"memory_mb": 900.0}))
    assert choose(judged, use_case.budget).model.candidate == "logistic"


def test_a_budget_that_prefers_the_cheapest_takes_it_among_those_that_pass(
    use_case: UseCase, settings: Settings, trained: Trained
) -> None:
    judged = judged_by(use_case, settings, trained, costing(trees={"memory_mb": 50.0}))
    assert choose(judged, use_case.budget).model.candidate == "trees"
    assert choose(judged, Budget(use_case.budget.limits, prefer="cheapest")).model.candidate == "logistic"


def test_a_tightened_budget_changes_the_choice_though_the_champion_is_better(
    first: Outcome,
    use_case: UseCase,
    settings: Settings,
    db: Database,
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
) -> None:
    again = train(use_case, settings, training_set, plan, as_of=as_of)
    tight, meter = TrainOptions(budget={"memory_mb": 20.0}), costing(trees={"memory_mb": 50.0})
    outcome = settle(use_case, settings, db, again, meter, parity=SAME, as_of=as_of, options=tight)
    assert (outcome.promoted, outcome.version.candidate) == (True, "logistic")
    assert "that champion breaks the budget itself" in outcome.reason


def test_when_none_passes_the_reason_says_by_how_much_each_missed(
    use_case: UseCase, settings: Settings, db: Database, trained: Trained, as_of: datetime
) -> None:
    tight = TrainOptions(budget={"memory_mb": 3.0})
    outcome = settle(
        use_case, settings, db, trained, costing(trees={"memory_mb": 5.5}), parity=SAME, as_of=as_of, options=tight
    )
    assert not outcome.promoted
    assert outcome.reason == (
        "trees is refused. Memory added by the model is 5.5 MB and must be at most 3 MB: it misses by 2.5 MB. "
        "logistic is refused, too: Memory added by the model is 5 MB and must be at most 3 MB: it misses by 2 MB."
    )


def models_in_the_picture(settings: Settings, outcome: Outcome) -> dict[str, bool]:
    """The models of the Pareto picture, and which is marked as the champion."""
    assert read_artifact(settings, outcome.version.run_id, "pareto.png").startswith(b"\x89PNG")
    told = json.loads(read_artifact(settings, outcome.version.run_id, "pareto.json"))
    return {one["name"]: one["champion"] for one in told["models"]}


def test_the_chosen_models_run_has_the_picture_of_all(first: Outcome, settings: Settings) -> None:
    assert models_in_the_picture(settings, first) == {"coin": False, "logistic": False, "trees": True}


def test_a_champion_that_stays_is_in_the_picture(
    first: Outcome,
    use_case: UseCase,
    settings: Settings,
    db: Database,
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
) -> None:
    again = train(use_case, settings, training_set, plan, as_of=as_of)
    refused = settle(use_case, settings, db, again, costing(), parity=SAME, as_of=as_of)
    models = models_in_the_picture(settings, refused)
    assert models == {"coin": False, "logistic": False, "trees": False, "champion 1 (trees)": True}


def test_a_damaged_champion_does_not_keep_a_good_model_out(
    first: Outcome,
    use_case: UseCase,
    settings: Settings,
    db: Database,
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
) -> None:
    (Path(first.version.bundle) / "model.onnx").write_bytes(b"")
    again = train(use_case, settings, training_set, plan, as_of=as_of)
    outcome = settle(use_case, settings, db, again, costing(), parity=SAME, as_of=as_of)
    assert outcome.promoted
    assert "cannot be compared" in outcome.reason


def answering(trained: Trained, tampered: str = "") -> Measure:
    """A meter whose path answers every model's own scores, but of one model the tenth row of the sample."""

    def measure(bundle: Bundle) -> Cost:
        name = bundle.contract.candidate
        (model,) = (one for one in trained.models if one.candidate == name)
        scores = model.scores[trained.sampled()][:, None].tolist()
        scores[9][0] += 2e-5 if name == tampered else 0.0
        return Cost(CHEAP, scores=scores)

    return measure


def test_a_model_whose_scores_are_the_same_along_the_serving_path_serves(
    use_case: UseCase, settings: Settings, db: Database, trained: Trained, as_of: datetime
) -> None:
    outcome = settle(use_case, settings, db, trained, answering(trained), parity=SAME, as_of=as_of)
    assert (outcome.promoted, outcome.version.candidate) == (True, "trees")
    rows = f"{min(trained.holdout.height, 1_000):,}"
    assert f"{rows} hold-out rows are given the scores that it is judged by" in outcome.reason


def test_one_score_that_differs_along_the_serving_path_refuses_the_model(
    use_case: UseCase, settings: Settings, db: Database, trained: Trained, as_of: datetime
) -> None:
    outcome = settle(use_case, settings, db, trained, answering(trained, "trees"), parity=SAME, as_of=as_of)
    trees = outcome.judged[2].verdict
    assert [one.name for one in trees.checks if not one.passed] == ["scores"]
    assert "are given other scores than those that it is judged by: row 9 of them" in trees.against[0]
    assert (outcome.promoted, outcome.version.candidate) == (True, "logistic")  # the next best


def test_a_model_whose_features_differ_online_does_not_serve(
    use_case: UseCase, settings: Settings, db: Database, trained: Trained, as_of: datetime
) -> None:
    told = Mismatch("recent", "delay", {"carrier": "AA"}, as_of, 4.0, None)
    differs = Parity(rows=300, values=1_200, mismatches=7, first=(told,), seconds=0.1)
    outcome = settle(use_case, settings, db, trained, costing(), parity=differs, as_of=as_of)
    assert not outcome.promoted
    assert db.champion("late") is None
    assert outcome.version.status == "refused"
    assert not any(one.verdict.passed for one in outcome.judged)
    why = (
        "Asked again online, 7 of the 1,200 feature values of 300 training rows differ; delay of recent for carrier AA "
        "at 2013-02-10 00:00 UTC is 4.0 offline and None online."
    )
    assert outcome.reason == f"trees is refused. {why} logistic is refused, too."
    assert db.decisions("late")[-1].evidence["verdict"]["against"] == [why]
