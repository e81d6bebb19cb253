import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from millrace.quality import Quality
from millrace.usecase import Retrain
from monitoring.decide import Decision, decide, decide_again
from monitoring.evidence import Effect, Evidence, Harm, limits_from_dict, limits_to_dict

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
HOURLY = Retrain(cooldown=DAY)
VAIN = (Effect(7, 2, 0.004, 0.006), Effect(11, 3, 0.004, -0.002), Effect(15, 4, None, 0.0))
"""Of three retrains the last two brought nothing."""
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


def test_rows_beyond_what_the_champion_learned_from_are_a_reason() -> None:
    decision = decide(LIMITS, replace(CALM, unseen=0.36, unseen_inputs=("dewp", "humid")))
    assert decision.action == "retrain"
    assert decision.reasons[0] == (
        "In 36% of the rows an input lies beyond all that the champion learned from (dewp, humid) (limit 30%)."
    )


@pytest.mark.parametrize("share", [None, 0.0, 0.29])
def test_few_such_rows_are_none(share: float | None) -> None:
    assert decide(LIMITS, replace(CALM, unseen=share)).action == "nothing"


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


def test_two_retrains_in_a_row_that_brought_nothing_call_a_person() -> None:
    decision = decide(LIMITS, replace(DUE, effects=VAIN))
    assert (decision.action, decision.severity) == ("page", "critical")
    assert decision.reasons[0] == (
        "The last 2 retrains in a row brought nothing (version 3: -0.0020 nats, version 4: +0.0000 nats): no other one "
        "is started until a person resumes (millrace resume)."
    )


def test_a_person_is_called_even_when_no_retrain_is_due() -> None:
    assert decide(LIMITS, replace(CALM, effects=VAIN)).action == "page"


def test_after_the_call_retrains_stay_held_back() -> None:
    called = replace(DUE, effects=VAIN, paged=True)
    decision = decide(LIMITS, called)
    assert decision.action == "hold_back"
    assert _held_back_by(decision)[0].startswith("Held back: the last 2 retrains in a row brought nothing")
    calm = decide(LIMITS, replace(called, new_labels=9_000))
    assert calm.action == "nothing"
    assert "brought nothing" in calm.reason


def test_one_that_helped_in_between_stops_nothing() -> None:
    mixed = (VAIN[1], replace(VAIN[2], realised=0.0001))
    assert decide(LIMITS, replace(DUE, effects=mixed)).action == "retrain"
    assert decide(LIMITS, replace(DUE, effects=VAIN[1:2])).action == "retrain"


def test_how_many_may_bring_nothing_is_the_use_case_s() -> None:
    assert decide(replace(LIMITS, stop_after=0), replace(DUE, effects=VAIN)).action == "retrain"
    assert decide(replace(LIMITS, stop_after=1), replace(DUE, effects=VAIN[2:])).action == "page"


def test_one_trains_at_a_time() -> None:
    decision = decide(LIMITS, replace(DUE, training=12))
    assert decision.action == "hold_back"
    assert _held_back_by(decision) == ["Held back: a training is running already (run 12)."]


def test_a_use_case_may_retrain_on_an_immature_window() -> None:
    assert decide(replace(LIMITS, even_immature=True), replace(DUE, labelled=1_950)).action == "retrain"


def test_a_storm_starts_one_retrain_a_cooldown_and_the_rest_are_held_back() -> None:
    began: list[datetime] = []
    actions = []
    for hour in range(48):
        moment = NOW + timedelta(hours=hour)
        storm = replace(DUE, as_of=moment, end=moment, retrained_at=tuple(began))
        storm = replace(storm, drifted=("temp",), score_drifted=True, promised_log_loss=0.30)
        decision = decide(HOURLY, storm)
        actions.append(decision.action)
        began += [moment] if decision.action == "retrain" else []
    assert began == [NOW, NOW + DAY]
    assert actions.count("hold_back") == 46


@pytest.mark.parametrize(
    ("level", "action", "severity"),
    [("none", "nothing", "info"), ("low", "nothing", "info"), ("high", "alert", "warning")],
)
def test_a_drift_counts_by_the_harm_that_is_expected_of_it(level: str, action: str, severity: str) -> None:
    harm = Harm(level, ("The log loss is expected to rise by 0.03 nats.",))
    one, many = (
        decide(LIMITS, replace(CALM, drifted=names, harm=harm)) for names in (("temp",), tuple("abcdefghijkl"))
    )
    assert (one.action, one.severity) == (many.action, many.severity) == (action, severity)


def test_an_alarm_tells_the_drift_and_its_harm_once() -> None:
    harm = Harm("high", ("The log loss is expected to rise by 0.03 nats.",))
    reasons = decide(LIMITS, replace(CALM, drifted=("temp",), harm=harm)).reasons
    assert reasons[:2] == (
        "1 column drifted (temp) and the score stayed (0.03 standard deviations).",
        "The log loss is expected to rise by 0.03 nats.",
    )
    assert len(set(reasons)) == len(reasons)


def test_wrong_data_and_what_they_hold_back_are_worth_a_warning() -> None:
    wrong = replace(CALM, data_problems=("x",))
    assert decide(LIMITS, wrong).severity == "warning"
    assert decide(LIMITS, replace(DUE, data_problems=("x",))).severity == "warning"
    assert decide(LIMITS, DUE).severity == "info"


@pytest.mark.parametrize(
    "evidence",
    [
        CALM,
        DUE,
        replace(DUE, effects=VAIN, paged=True, training=3, retrained_at=(NOW - 20 * DAY,)),
        replace(CALM, quality=None, promised_log_loss=None, holdout=None, data_problems=("x", "y"), top_label=True),
        replace(CALM, drifted=("temp", "wind"), harm=Harm("high", ("a", "b"))),
    ],
)
def test_a_stored_decision_is_taken_again_from_its_evidence(evidence: Evidence) -> None:
    limits = replace(LIMITS, max_growth=0.07, cooldown=timedelta(hours=5))
    decision = decide(limits, evidence)
    stored = json.loads(json.dumps(decision.evidence, allow_nan=False))
    assert Evidence.from_dict(stored) == evidence
    assert decide_again(stored) == decision


def test_limits_go_to_json_and_back() -> None:
    assert limits_from_dict(json.loads(json.dumps(limits_to_dict(HOURLY)))) == HOURLY
    assert limits_from_dict({}) == Retrain()


def test_evidence_of_an_earlier_day_lacks_what_was_not_kept_then() -> None:
    stored = decide(LIMITS, CALM).evidence
    old = {name: value for name, value in stored.items() if name not in ("harm", "effects", "paged", "training")}
    assert Evidence.from_dict(old | {"of_a_later_day": 1}) == CALM


def test_what_spoke_for_and_against_is_kept_apart() -> None:
    decision = decide(LIMITS, replace(DUE, labelled=10))
    assert decision.evidence["for"] == [decision.reasons[0]]
    assert decision.evidence["against"][0].startswith("The window is immature")
