"""Answers of a model of classes: each row its own class, whatever batch it came in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from millrace.telemetry import Metrics
from serving.online.answers import Answer, Classed, ClassedRow, ScoredRow
from serving.online.request import PredictRequest, ScoresRequest
from serving.online.scorer import Scorer

from .conftest import CONTRACT, NOW, FakeReader

SCORES = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.4, 0.4, 0.2]])


class FakeEngine:
    """The scores above, one after the other."""

    def predict(self, rows: Any) -> Any:
        return SCORES[: len(rows)]


@pytest.fixture
def score(reader: FakeReader) -> Scorer:
    return Scorer(
        contract=replace(CONTRACT, classes=("a", "b", "c")),
        engine=FakeEngine(),  # type: ignore[arg-type]  # predicts, which is all that is asked of it
        reader=reader,
        order=None,
        version=1,
        key=("carrier",),
        log=None,
        metrics=Metrics(),
        clock=lambda: NOW,
    )


def rows_of(answer: Any) -> list[ClassedRow]:
    assert isinstance(answer, Answer), answer
    return [row for row in answer.predictions if isinstance(row, ClassedRow)]


def test_every_request_of_a_batch_gets_the_classes_of_its_own_rows(score: Scorer) -> None:
    row = {"carrier": "UA", "distance": 0}
    first, none, last = score([PredictRequest(1, [row]), PredictRequest(0, []), ScoresRequest(2, [row, row])])
    assert [(one.label, one.score, one.scores) for one in rows_of(first)] == [("b", 0.5, None)]
    assert rows_of(none) == []
    assert [(one.label, one.score) for one in rows_of(last)] == [("a", 0.6), ("a", 0.4)]
    assert [one.scores for one in rows_of(last)] == [{"a": 0.6, "b": 0.1, "c": 0.3}, {"a": 0.4, "b": 0.4, "c": 0.2}]


def test_a_view_that_refuses_moves_no_class_to_another_request(score: Scorer, reader: FakeReader) -> None:
    reader.expired = {"ZZ": "refuse"}
    refused, answered = score([PredictRequest(1, [{"carrier": name, "distance": 0}]) for name in ("ZZ", "UA")])
    assert not isinstance(refused, Answer)
    assert [one.label for one in rows_of(answered)] == ["b"]


def test_a_class_keeps_its_flags_and_its_id() -> None:
    (row,) = Classed("abc", SCORES).rows([ScoredRow("7", 0.6, ["missing:plane"])], start=1, scores=False)
    assert msgspec.json.encode(row) == b'{"id":"7","score":0.6,"label":"a","flags":["missing:plane"]}'


def test_an_answer_of_two_outcomes_has_a_score_alone() -> None:
    answer = Answer("late", 1, [ScoredRow("7", 0.25, [])])
    expected = b'{"use_case":"late","version":1,"predictions":[{"id":"7","score":0.25,"flags":[]}]}'
    assert msgspec.json.encode(answer) == expected
