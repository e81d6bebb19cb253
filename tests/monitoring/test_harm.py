import json
from dataclasses import replace
from typing import Any

import pytest

from monitoring.harm import Harm, Signs, judge_harm, share_of

CALM = Signs(drifted=(), score_drifted=False, score_shift=0.0, score_distance=0.0)


def _level(**signs: Any) -> str:
    return judge_harm(replace(CALM, **signs), serious_loss=0.05).level


def test_without_drift_and_loss_there_is_no_harm() -> None:
    assert judge_harm(CALM, serious_loss=0.05) == Harm("none", (), score_shift=0.0, score_distance=0.0)


def test_the_number_of_drifted_columns_says_nothing() -> None:
    many = tuple(f"n{i}" for i in range(40))
    assert _level(drifted=("n0",)) == _level(drifted=many) == _level(drifted=many, importance=0.1) == "low"


@pytest.mark.parametrize(
    "signs",
    [
        {"score_drifted": True, "score_shift": -0.08},
        {"score_drifted": True, "score_distance": 0.6},
        {"drifted": ("n0",), "importance": 0.7},
        {"drifted": ("n0",), "expected_loss": 0.06},
        {"surprise": 0.06},
        {"surprise": -0.06},
    ],
)
def test_what_is_expected_or_known_to_cost_much_is_high(signs: dict[str, Any]) -> None:
    found = judge_harm(replace(CALM, **signs), serious_loss=0.05)
    assert found.level == "high"
    assert found.sentences


def test_a_score_that_moved_without_being_drift_is_chance() -> None:
    assert _level(score_shift=0.2, score_distance=0.9) == "none"


def test_outcomes_outrank_what_was_feared() -> None:
    fearful = {"drifted": ("n0",), "importance": 0.9, "score_drifted": True, "score_shift": 0.3}
    assert _level(**fearful) == "high"
    assert _level(**fearful, surprise=0.0) == _level(**fearful, surprise=0.03) == "low"


def test_a_small_surprise_without_drift_is_no_alarm() -> None:
    assert _level(surprise=0.03) == "none"


def test_an_array_s_two_columns_stand_for_their_input() -> None:
    assert share_of({"image": 0.3, "hour": 0.1}, ["image spread"]) == pytest.approx(0.75)


def test_inputs_that_made_the_model_worse_count_as_nothing() -> None:
    assert share_of({"a": 0.2, "b": -0.1}, ["a", "b"]) == 1.0
    assert share_of({"a": -0.2}, ["a"]) is None
    assert share_of({}, ["a"]) is None


def test_a_harm_can_be_read_back_from_what_was_stored() -> None:
    found = judge_harm(replace(CALM, drifted=("n0",), importance=0.2), serious_loss=0.05)
    stored = json.loads(json.dumps(found.as_dict()))
    assert Harm(**stored | {"sentences": tuple(stored["sentences"])}) == found
