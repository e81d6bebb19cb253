"""A network's weights are kept with its run; a later training begins with them, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace import UseCase
from millrace.db import Database, ModelRow
from millrace.errors import TrainingError
from millrace.registry import mlflow_client, register
from millrace.settings import Settings
from training.job import Trained, TrainedModel, train
from training.warm_start import WEIGHTS, digest, open_parent, weights_of


@pytest.fixture
def trained(
    with_network: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> Trained:
    return train(with_network, settings, training_set, plan, as_of=as_of)


def registered(settings: Settings, model: TrainedModel, as_of: datetime) -> ModelRow:
    db = Database.open(settings)
    nothing: dict[str, Any] = {}
    return register(
        settings,
        db,
        model.bundle,
        run_id=model.run_id,
        as_of=as_of,
        status="challenger",
        quality=nothing,
        cost=nothing,
        verdict=nothing,
    )


def test_a_training_begins_with_the_parents_weights_and_records_it(
    trained: Trained,
    with_network: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    plan: ReadPlan,
    as_of: datetime,
) -> None:
    parent = open_parent(settings, with_network, registered(settings, trained.models[0], as_of))
    assert (parent.version, parent.candidate) == (1, "net")
    frozen = replace(with_network.candidates[0], learning_rate=1e-12)  # so that the weights stay where they began
    case = replace(with_network, candidates=(frozen,))
    further = train(case, settings, training_set, plan, as_of=as_of, parent=parent).models[0]
    np.testing.assert_allclose(further.scores, trained.models[0].scores, atol=1e-6)
    assert further.bundle.contract.lineage["parent"] == 1
    afresh = train(case, settings, training_set, plan, as_of=as_of).models[0]
    assert np.abs(afresh.scores - trained.models[0].scores).max() > 1e-3
    assert afresh.bundle.contract.lineage["parent"] is None


def test_an_estimator_has_no_weights_to_begin_with(
    use_case: UseCase, settings: Settings, training_set: TrainingSet, plan: ReadPlan, as_of: datetime
) -> None:
    model = train(use_case, settings, training_set, plan, as_of=as_of).models[1]
    with pytest.raises(TrainingError, match="cannot be fitted further") as refused:
        open_parent(settings, use_case, registered(settings, model, as_of))
    assert "--from" in refused.value.todo


def test_a_candidate_that_is_gone_cannot_be_fitted_further(
    trained: Trained, use_case: UseCase, settings: Settings, as_of: datetime
) -> None:
    with pytest.raises(TrainingError, match="cannot be fitted further"):
        open_parent(settings, use_case, registered(settings, trained.models[0], as_of))


def test_weights_that_were_changed_or_are_gone_are_refused(
    trained: Trained, with_network: UseCase, settings: Settings, as_of: datetime
) -> None:
    row = registered(settings, trained.models[0], as_of)
    (kept,) = settings.folder("mlruns").rglob(WEIGHTS)
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(TrainingError, match="not those that were signed"):
        open_parent(settings, with_network, row)
    kept.unlink()
    with pytest.raises(TrainingError, match="are gone"):
        open_parent(settings, with_network, row)


def test_only_networks_have_weights() -> None:
    from sklearn.linear_model import LogisticRegression

    assert weights_of(LogisticRegression()) == b""
    assert digest(b"") == ""


def test_the_weights_lie_with_the_candidates_run(trained: Trained, settings: Settings) -> None:
    names = {one.path for one in mlflow_client(settings).list_artifacts(trained.models[0].run_id)}
    assert WEIGHTS in names
