import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from millrace.candidates import Candidate
from millrace.errors import LakeError, NoDataError
from millrace.quality import quality
from millrace.source import Source
from millrace.usecase import Label, Population, UseCase
from monitoring.sight import Beside
from monitoring.window import Champion, Window, watch

Frames = Callable[..., pl.DataFrame]
START = datetime(2013, 4, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
FIRST = Window(START, START + WEEK, START + WEEK)
CHAMPION = Champion(version=1, as_of=START)


def _never(*_: Any) -> Any:
    raise AssertionError("monitoring calls no function of a use case")


SOURCE = Source("rides", read=_never, schema=_never, key=("ride",))
RIDES = UseCase(
    name="rides",
    question="Will it be late?",
    sources=(SOURCE,),
    population=Population(SOURCE),
    label=Label(SOURCE, "late", arrives_after=timedelta(hours=6)),
    feature_tables=(),
    feature_repo=_never,
    candidates=(Candidate("model", _never),),
    slices=("t0",),
)


@pytest.fixture
def frames(window: Frames, logged: Frames, labels_of: Frames) -> dict[str, pl.DataFrame]:
    """A reference, a week of predictions drawn like it, and their labels."""
    predictions = logged(window(3_000, seed=1))
    return {"reference": window(2_000, seed=0), "predictions": predictions, "labels": labels_of(predictions)}


def test_one_pass_sees_drift_performance_and_decides(frames: dict[str, pl.DataFrame]) -> None:
    found = watch(RIDES, FIRST, CHAMPION, **frames)
    known = frames["labels"].filter(pl.col("label_known_at") <= FIRST.as_of)
    assert (found.rows, found.live.labelled) == (3_000, known.height)
    assert found.drift.drifted == ()
    assert found.data_quality.problems == ()
    assert {piece.column for piece in found.live.slices} == {"t0"}
    assert found.evidence.new_labels == known.height
    assert found.decision.action == "hold_back"  # every label is new to this champion, and it was trained last week


def test_the_same_pass_gives_the_same_result(frames: dict[str, pl.DataFrame]) -> None:
    again = {name: frame.sample(fraction=1.0, shuffle=True, seed=7) for name, frame in frames.items()}
    again["reference"] = frames["reference"]
    first, second = watch(RIDES, FIRST, CHAMPION, **frames), watch(RIDES, FIRST, CHAMPION, **again)
    assert first.as_dict() == second.as_dict()


def test_the_result_is_json_and_carries_its_decision(frames: dict[str, pl.DataFrame]) -> None:
    found = watch(RIDES, FIRST, CHAMPION, **frames, static=frames["predictions"])
    stored = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert stored["decision"]["reason"] == found.decision.reason
    assert stored["start"] == "2013-04-01T00:00:00+00:00"


def test_the_live_scores_are_compared_with_those_of_a_model_left_alone(frames: dict[str, pl.DataFrame]) -> None:
    static = frames["predictions"].with_columns(pl.lit(0.5).alias("score"))
    found = watch(RIDES, FIRST, CHAMPION, **frames, static=static)
    assert found.static is not None
    assert found.static.quality is not None
    assert found.static.quality.log_loss == pytest.approx(np.log(2))
    assert found.gain is not None
    assert found.gain.mean > 0
    assert watch(RIDES, FIRST, CHAMPION, **frames).gain is None


def test_predictions_outside_the_window_are_left_out(frames: dict[str, pl.DataFrame]) -> None:
    day = Window(START + timedelta(days=1), START + timedelta(days=2), START + WEEK)
    found = watch(RIDES, day, CHAMPION, **frames)
    inside = frames["predictions"].filter(pl.col("event_time").is_between(day.start, day.end, closed="left"))
    assert found.rows == inside.height


def test_of_a_row_predicted_twice_the_last_prediction_counts(frames: dict[str, pl.DataFrame]) -> None:
    later = frames["predictions"].with_columns(
        (pl.col("served_at") + timedelta(minutes=1)).alias("served_at"), pl.lit(0.25).alias("score")
    )
    both = frames | {"predictions": pl.concat([later, frames["predictions"]])}
    found = watch(RIDES, FIRST, CHAMPION, **both)
    assert (found.rows, found.repeated) == (3_000, 3_000)
    assert found.live.mean_score == pytest.approx(0.25)


def test_the_label_s_key_columns_become_the_row_key_of_the_log(frames: dict[str, pl.DataFrame]) -> None:
    by_key = frames["labels"].rename({"row_key": "ride"}).with_columns(pl.col("ride").cast(pl.Int64))
    found = watch(RIDES, FIRST, CHAMPION, **(frames | {"labels": by_key}))
    assert found.live.labelled == watch(RIDES, FIRST, CHAMPION, **frames).live.labelled


def test_the_quality_is_that_of_the_shared_code_on_the_log(frames: dict[str, pl.DataFrame]) -> None:
    later = replace(FIRST, as_of=START + 2 * WEEK)
    found = watch(RIDES, later, CHAMPION, **frames)
    assert found.live.quality == quality(
        frames["labels"]["label"].to_numpy(), frames["predictions"]["score"].to_numpy()
    )


def test_labels_known_at_the_last_training_are_not_new(frames: dict[str, pl.DataFrame]) -> None:
    known = frames["labels"].filter(pl.col("label_known_at") <= FIRST.as_of)["label_known_at"]
    half = Champion(version=2, as_of=START + WEEK / 2)
    evidence = watch(RIDES, FIRST, half, **frames).evidence
    assert evidence.known_labels == (known <= half.as_of).sum()
    assert evidence.known_labels + evidence.new_labels == known.len()
    refused = START + WEEK * 0.75
    assert watch(RIDES, FIRST, half, **frames, retrained_at=[refused]).evidence.known_labels == (known <= refused).sum()


def test_an_empty_window_alerts_and_raises_nothing(frames: dict[str, pl.DataFrame]) -> None:
    later = Window(START + 2 * WEEK, START + 3 * WEEK, START + 3 * WEEK)
    found = watch(RIDES, later, CHAMPION, **(frames | {"labels": frames["labels"].clear()}))
    assert (found.rows, found.live.quality) == (0, None)
    assert found.decision.action == "alert"
    assert found.decision.reason == "There are no predictions from 2013-04-15 00:00 to 2013-04-22 00:00 UTC."


def test_a_window_without_any_label_is_not_judged_by_its_outcomes(frames: dict[str, pl.DataFrame]) -> None:
    found = watch(RIDES, FIRST, CHAMPION, **(frames | {"labels": frames["labels"].clear()}))
    assert found.live.quality is None
    assert found.decision.action == "nothing"
    assert "No label is known." in found.decision.reasons


def test_a_reference_of_another_schema_alerts(frames: dict[str, pl.DataFrame]) -> None:
    other = frames["reference"].rename({"n0": "renamed"}).with_columns(pl.col("n1").cast(pl.String))
    found = watch(RIDES, FIRST, Champion(1, FIRST.as_of), **(frames | {"reference": other}))
    assert found.decision.action == "alert"
    assert "the column renamed is missing; n1 is Float64, in the reference String" in found.decision.reason


def test_labels_without_a_key_are_refused(frames: dict[str, pl.DataFrame]) -> None:
    with pytest.raises(LakeError, match="labels lack the column row_key"):
        watch(RIDES, FIRST, CHAMPION, **(frames | {"labels": frames["labels"].drop("row_key")}))


@pytest.mark.parametrize(("end", "as_of"), [(START, START + WEEK), (START + WEEK, START)])
def test_a_window_that_cannot_be_is_refused(end: datetime, as_of: datetime) -> None:
    with pytest.raises(NoDataError, match="There is no window"):
        Window(START, end, as_of)


def test_the_window_before_tells_what_is_new(frames: dict[str, pl.DataFrame], window: Frames, logged: Frames) -> None:
    """The inputs moved between the reference and last week, and have stayed there since."""
    moved = logged(window(3_000, seed=1, shift=1.0, shifted=2))
    before = logged(window(3_000, seed=2, shift=1.0, shifted=2), start=START - WEEK)
    found = watch(RIDES, FIRST, CHAMPION, **(frames | {"predictions": moved}), beside=Beside(previous=before))
    assert set(found.drift.drifted) == {"n0", "n1"}
    assert found.previous is not None
    assert found.previous.drifted == ()
    assert watch(RIDES, FIRST, CHAMPION, **frames).previous is None


def test_inputs_that_moved_without_harm_are_a_low_one(
    frames: dict[str, pl.DataFrame], window: Frames, logged: Frames
) -> None:
    moved = frames | {"predictions": logged(window(3_000, seed=1, shift=1.0, shifted=2))}
    assert watch(RIDES, FIRST, CHAMPION, **frames).harm.level == "none"
    assert watch(RIDES, FIRST, CHAMPION, **moved).harm.level == "low"


def test_without_labels_what_the_model_rests_on_decides_the_harm(
    frames: dict[str, pl.DataFrame], window: Frames, logged: Frames
) -> None:
    moved = frames | {
        "predictions": logged(window(3_000, seed=1, shift=1.0, shifted=2)),
        "labels": frames["labels"].clear(),
    }
    for importance, level in (({"n0": 0.3, "n5": 0.1}, "high"), ({"n0": 0.1, "n5": 0.3}, "low")):
        found = watch(RIDES, FIRST, CHAMPION, **moved, beside=Beside(importance=importance))
        assert found.harm.level == level
        assert found.evidence.harm == found.harm


def test_before_the_labels_the_metric_is_estimated(frames: dict[str, pl.DataFrame], labels_of: Frames) -> None:
    known = labels_of(frames["reference"].with_row_index("row_key").with_columns(event_time=pl.lit(START)))
    reference = frames["reference"].with_columns(known["label"])
    found = watch(RIDES, FIRST, CHAMPION, **(frames | {"reference": reference, "labels": frames["labels"].clear()}))
    assert found.live.quality is None
    assert found.estimate is not None
    assert found.estimate.log_loss.low < found.estimate.log_loss.value < found.estimate.log_loss.high
    assert watch(RIDES, FIRST, CHAMPION, **frames).estimate is None  # no labels in that reference


def test_figures_are_provisional_until_the_last_label_is_due(frames: dict[str, pl.DataFrame]) -> None:
    early = watch(RIDES, FIRST, CHAMPION, **frames).maturity
    late = watch(RIDES, replace(FIRST, as_of=FIRST.end + timedelta(hours=6)), CHAMPION, **frames).maturity
    assert (early.enough, early.settled, late.settled) == (True, False, True)


def test_a_clock_an_hour_off_is_a_problem_of_the_data(frames: dict[str, pl.DataFrame]) -> None:
    wrong = frames["predictions"].with_columns(
        pl.lit("online").alias("channel"), pl.col("served_at") + timedelta(hours=1)
    )
    found = watch(RIDES, FIRST, CHAMPION, **(frames | {"predictions": wrong}))
    assert "the clocks disagree" in found.decision.reason


def test_constant_and_null_columns_are_handled_and_said(frames: dict[str, pl.DataFrame]) -> None:
    odd = {
        "n0": pl.lit(3.0),
        "n1": pl.lit(None, dtype=pl.Float64),
        "t0": pl.lit("v1"),
        "t1": pl.lit(None, dtype=pl.String),
    }
    wrong = frames["predictions"].with_columns(**odd)
    found = watch(RIDES, FIRST, CHAMPION, **(frames | {"predictions": wrong}), beside=Beside(previous=wrong))
    assert {"n0", "t0"} <= set(found.drift.drifted)
    assert found.data_quality.stuck == ("n0", "t0")
    notes = {column.name: column.note for column in found.drift.columns}
    assert notes["n1"] == notes["t1"] == "no values in the window"
    assert "n1 is 100% missing" in found.decision.reason


def test_without_labels_the_pass_tells_the_estimate_and_that_it_cannot_see_concept_drift(
    frames: dict[str, pl.DataFrame], labels_of: Frames
) -> None:
    known = labels_of(frames["reference"].with_row_index("row_key").with_columns(event_time=pl.lit(START)))
    with_labels = frames | {"reference": frames["reference"].with_columns(known["label"])}
    unlabelled = with_labels | {"labels": frames["labels"].clear()}
    assert "cannot see concept drift" in watch(RIDES, FIRST, CHAMPION, **unlabelled).told()["estimate"]
    assert watch(RIDES, FIRST, CHAMPION, **with_labels).told()["estimate"] is None  # the outcomes say it better


def test_the_summary_is_json(frames: dict[str, pl.DataFrame]) -> None:
    summary = watch(RIDES, FIRST, CHAMPION, **frames, beside=Beside(costs={1: {"p50_ms": 0.2}}, price=0.05)).summary()
    stored = json.loads(json.dumps(summary, allow_nan=False))
    assert stored["service"]["core_seconds_per_1000"] == pytest.approx(0.2)
    assert stored["maturity"]["sentence"].startswith("Labels are known for 96%")
