"""The scorer alone: what one request of a batch is refused, the others do not notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.errors import RequestError
from millrace.telemetry import Metrics
from serving.online.answers import Answer
from serving.online.request import PredictRequest
from serving.online.scorer import Scorer

from .conftest import CONTRACT, NOW, FakeReader


class FakeEngine:
    """The sum of a row's inputs."""

    def predict(self, rows: Any) -> Any:
        return np.nan_to_num(rows).sum(axis=1)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def score(reader: FakeReader, metrics: Metrics) -> Scorer:
    return Scorer(
        contract=CONTRACT,
        engine=FakeEngine(),  # type: ignore[arg-type]  # predicts, which is all that is asked of it
        reader=reader,
        order=None,
        version=1,
        key=("carrier",),
        log=None,
        metrics=metrics,
        clock=lambda: NOW,
    )


def asks(*carriers: str) -> PredictRequest:
    return PredictRequest(len(carriers), [{"carrier": carrier, "distance": 0} for carrier in carriers])


def scores(answer: Answer | RequestError) -> list[float]:
    assert isinstance(answer, Answer), answer
    return [row.score for row in answer.predictions]


def test_only_the_request_that_a_view_refuses_is_refused(score: Scorer, reader: FakeReader) -> None:
    reader.expired = {"ZZ": "refuse"}
    first, refused, last = score([asks("UA"), asks("DL", "ZZ"), asks("DL", "UA")])
    assert (scores(first), scores(last)) == ([0.5], [-0.25, 0.5])
    assert isinstance(refused, RequestError)
    assert (refused.status, refused.field) == (503, "rows[1]")


def test_a_batch_of_refused_requests_scores_nothing(score: Scorer, reader: FakeReader, metrics: Metrics) -> None:
    reader.expired = {"ZZ": "refuse"}
    assert [type(answer) for answer in score([asks("ZZ"), asks("ZZ")])] == [RequestError, RequestError]
    assert b'millrace_predictions_total{use_case="late",version="1"} 0.0' in metrics.render()


def test_refused_rows_count_as_stale_once(score: Scorer, reader: FakeReader, metrics: Metrics) -> None:
    reader.expired = {"ZZ": "refuse", "DL": "flag"}
    score([asks("ZZ", "UA"), asks("DL")])
    assert b'millrace_stale_rows_total{use_case="late",view="carrier_view"} 2.0' in metrics.render()
