import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from millrace.quality import Quality
from millrace.usecase import Retrain
from monitoring.decide import Decision, Evidence, decide

DAY = timedelta(days=1)
NOW = datetime(2013, 4, 29, tzinfo=UTC)
LIMITS = Retrain()


def _quality(log_loss: float = 0.45, half: float = 0.01) -> Quality:
    return Quality(
        rows=6_000,
        positives=1_400,
        roc_auc=0.74,
        roc_auc_interval=(0.73, 0.75),
        log_loss=log_loss,
        log_loss_interval=(log_loss - half, log_loss + half),
        brier=0.14,
        calibration_error=0.02,
    )


CALM = Evidence(
    as_of=NOW,
    start=NOW - 7 * DAY,
    end=NOW,
    rows=6_500,
    labelled=6_300,
    quality=_quality(),
    promised_log_loss=0.451,
    holdout=_quality(0.43),
    drifted=(),
    score_drifted=False,
    score_effect=0.03,
    data_problems=(),
    champion_version=3,
    champion_as_of=NOW - 15 * DAY,
    known_labels=100_000,
    new_labels=9_000,
)
DUE = replace(CALM, new_labels=16_000)
"""Calm but for the labels that are new: a retrain is due, and each guard alone can hold it back."""


def _held_back_by(decision: Decision) -> list[str]:
    return [reason for reason in decision.reasons if reason.startswith("Held back: ")]


def test_a_calm_window_is_no_reason_to_act() -> None:
    decision = decide(LIMITS, CALM)
    assert decision.action == "nothing"
    assert decision.reasons == (
        "No reason to retrain.",
        "Log loss 0.450 where the model's own probabilities promised 0.451.",
        "ROC AUC 0.740; on the champion's hold-out it was 0.740 and the log loss 0.430.",
        "Champion version 3 is 15 days old; 9,000 labels are new since the last training (9%).",
    )


def test_many_new_labels_are_a_reason() -> None:
    decision = decide(LIMITS, DUE)
    assert decision.action == "retrain"
    assert decision.reasons[0] == (
        "16,000 labels are new since the last training, 16% of the 100,000 known then (limit 15%)."
    )


def test_a_training_long_ago_is_a_reason() -> None:
    decision = decide(LIMITS, replace(CALM, champion_as_of=NOW - 28 * DAY))
    assert decision.action == "retrain"
    assert decision.reasons[0] == "The last training was 28 days ago (limit 28 days)."


def test_a_training_whose_model_was_refused_counts_as_one() -> None:
    refused = replace(CALM, champion_as_of=NOW - 35 * DAY, retrained_at=(NOW - 21 * DAY,))
    assert refused.last_training == NOW - 21 * DAY
    assert decide(LIMITS, refused).action == "nothing"


@pytest.mark.parametrize("log_loss", [0.502, 0.398])
def test_a_log_loss_far_from_the_promise_is_a_reason_either_way(log_loss: float) -> None:
    decision = decide(LIMITS, replace(CALM, quality=_quality(log_loss), promised_log_loss=0.45))
    assert decision.action == "retrain"
    apart = abs(log_loss - 0.45)
    assert decision.reasons[0] == (
        f"Log loss {log_loss:.3f} where the model's own probabilities promised 0.450: {apart:.3f} apart (limit 0.05)."
    )


def test_a_hard_window_that_the_model_saw_coming_is_no_reason() -> None:
    hard = replace(CALM, quality=_quality(0.61), promised_log_loss=0.60, holdout=_quality(0.43))
    assert decide(LIMITS, hard).action == "nothing"


def test_a_difference_that_chance_explains_is_no_reason() -> None:
    few = replace(CALM, quality=_quality(0.53, half=0.1), promised_log_loss=0.45)
    assert few.surprise is None
    assert decide(LIMITS, few).action == "nothing"


def test_drift_of_columns_alone_is_told_and_no_reason() -> None:
    decision = decide(LIMITS, replace(CALM, drifted=("temp", "dewp", "hour", "wind")))
    assert decision.action == "nothing"
    told = "4 columns drifted (temp, dewp, hour, …) and the score stayed (0.03 standard deviations)."
    assert told in decision.reasons


def test_drift_of_columns_and_score_that_the_outcomes_bear_out_is_no_reason() -> None:
    moved = replace(CALM, drifted=("temp",), score_drifted=True, score_effect=0.4)
    decision = decide(LIMITS, moved)
    assert decision.action == "nothing"
    assert "1 column drifted (temp) and the score moved (0.40 standard deviations)." in decision.reasons


def test_drift_of_columns_and_score_halves_the_limit_of_the_surprise() -> None:
    surprised = replace(CALM, quality=_quality(0.48), promised_log_loss=0.45)
    assert decide(LIMITS, surprised).action == "nothing"
    moved = replace(surprised, drifted=("temp",), score_drifted=True, score_effect=0.4)
    decision = decide(LIMITS, moved)
    assert decision.action == "retrain"
    assert decision.reasons[0].endswith("0.030 apart (limit 0.025 when the inputs and the score have moved).")


def test_the_cooldown_holds_back() -> None:
    decision = decide(LIMITS, replace(DUE, retrained_at=(NOW - 30 * DAY, NOW - 7 * DAY)))
    assert decision.action == "hold_back"
    assert _held_back_by(decision) == [
        "Held back: the last training was on 2013-04-22, 7 days ago (cool-down 14 days)."
    ]


def test_the_cooldown_counts_from_the_champion_s_own_training_too() -> None:
    decision = decide(LIMITS, replace(DUE, champion_as_of=NOW - 13 * DAY))
    assert decision.action == "hold_back"
    assert "13 days ago" in decision.reason


def test_a_cooldown_that_has_just_passed_holds_nothing_back() -> None:
    assert decide(LIMITS, replace(DUE, retrained_at=(NOW - 14 * DAY,))).action == "retrain"


def test_the_monthly_cap_holds_back() -> None:
    past = tuple(NOW - days * DAY for days in (29, 22, 15))
    decision = decide(LIMITS, replace(DUE, retrained_at=past))
    assert decision.action == "hold_back"
    assert _held_back_by(decision) == ["Held back: 3 retrains in the last 30 days (at most 3)."]
    assert decide(LIMITS, replace(DUE, retrained_at=(NOW - 30 * DAY, *past[1:]))).action == "retrain"


def test_retrains_after_the_moment_of_the_decision_do_not_count() -> None:
    assert decide(LIMITS, replace(DUE, retrained_at=(NOW + DAY,))).action == "retrain"


def test_too_few_new_labels_hold_back() -> None:
    decision = decide(LIMITS, replace(CALM, champion_as_of=NOW - 40 * DAY, new_labels=900))
    assert decision.action == "hold_back"
    assert _held_back_by(decision) == ["Held back: only 900 labels are new since the last training (1,000 are needed)."]


def test_an_immature_window_holds_back() -> None:
    decision = decide(LIMITS, replace(DUE, labelled=1_950))
    assert decision.action == "hold_back"
    assert _held_back_by(decision) == [
        "Held back: the window is immature: labels are known for 30% of its 6,500 rows (70% are needed)."
    ]


def test_drift_on_an_immature_window_is_a_reason_that_is_held_back() -> None:
    unknown = replace(
        CALM, labelled=0, quality=None, promised_log_loss=None, drifted=("temp",), score_drifted=True, score_effect=0.4
    )
    decision = decide(LIMITS, unknown)
    assert decision.action == "hold_back"
    assert "too few labels are known to tell whether it is still right" in decision.reasons[0]


def test_data_that_cannot_be_trusted_hold_back() -> None:
    decision = decide(LIMITS, replace(DUE, data_problems=("the column temp is missing",)))
    assert decision.action == "hold_back"
    assert _held_back_by(decision) == ["Held back: the window's data cannot be trusted: the column temp is missing."]


def test_data_that_cannot_be_trusted_alert_when_no_retrain_is_due() -> None:
    decision = decide(LIMITS, replace(CALM, data_problems=("the column temp is missing",)))
    assert decision.action == "alert"
    assert decision.reasons[0] == "The window's data cannot be trusted: the column temp is missing."


def test_an_empty_window_alerts() -> None:
    empty = replace(CALM, rows=0, labelled=0, quality=None, promised_log_loss=None, score_effect=None)
    decision = decide(LIMITS, empty)
    assert decision.action == "alert"
    assert decision.reason == "There are no predictions from 2013-04-22 00:00 to 2013-04-29 00:00 UTC."


def test_an_empty_window_holds_a_due_retrain_back() -> None:
    empty = replace(DUE, rows=0, labelled=0, quality=None, promised_log_loss=None, score_effect=None)
    assert decide(LIMITS, empty).action == "hold_back"


def test_all_that_holds_back_is_told() -> None:
    storm = replace(DUE, labelled=10, data_problems=("x",), retrained_at=(NOW - DAY,), new_labels=500, known_labels=100)
    assert len(_held_back_by(decide(LIMITS, storm))) == 4


def test_every_cause_is_told() -> None:
    decision = decide(LIMITS, replace(DUE, champion_as_of=NOW - 40 * DAY, promised_log_loss=0.30))
    assert decision.action == "retrain"
    assert [word in decision.reason for word in ("promised", "labels are new", "40 days ago")] == [True] * 3


def test_the_limits_are_the_use_case_s() -> None:
    assert decide(replace(LIMITS, max_growth=0.05), CALM).action == "retrain"
    assert decide(replace(LIMITS, max_surprise=0.02), replace(CALM, promised_log_loss=0.42)).action == "retrain"


def test_even_a_limit_of_nothing_needs_more_than_chance() -> None:
    assert decide(replace(LIMITS, max_surprise=0.0), CALM).action == "nothing"


def test_the_same_evidence_gives_the_same_decision() -> None:
    assert decide(LIMITS, DUE) == decide(LIMITS, DUE)


def test_a_decision_carries_its_evidence_as_json() -> None:
    evidence = replace(DUE, quality=replace(_quality(), roc_auc=float("nan")), retrained_at=(NOW - 20 * DAY,))
    stored = json.loads(json.dumps(decide(LIMITS, evidence).as_dict(), allow_nan=False))["evidence"]
    assert stored["as_of"] == "2013-04-29T00:00:00+00:00"
    assert stored["growth"] == pytest.approx(0.16)
    assert stored["quality"]["roc_auc"] is None
    assert stored["retrained_at"] == ["2013-04-09T00:00:00+00:00"]
