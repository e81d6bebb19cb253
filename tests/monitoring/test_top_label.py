"""K classes are watched by the event that the predicted class happened."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from millrace.candidates import Candidate
from millrace.intervals import share_interval
from millrace.quality import Quality, quality
from millrace.source import Source
from millrace.usecase import Label, Monitor, Population, Retrain, UseCase
from monitoring.performance import join_labels, performance
from monitoring.top_label import accuracy_gain, as_event, of_top_label
from monitoring.window import Champion, Window, WindowResult, watch

START = datetime(2013, 4, 1, tzinfo=UTC)
END = START + timedelta(days=7)
CLASSES = ("apple", "pear", "quince")


def _never(*_: Any) -> Any:
    raise AssertionError("monitoring calls no function of a use case")


SOURCE = Source("scale", read=_never, schema=_never, key=("weighing",))
FRUIT = UseCase(
    name="fruit",
    question="Which fruit?",
    sources=(SOURCE,),
    population=Population(SOURCE),
    label=Label(SOURCE, "fruit", arrives_after=timedelta(hours=2), classes=CLASSES),
    request_features=("image",),
    candidates=(Candidate("model", _never),),
    slices=("shop",),
    monitor=Monitor(min_rows=100),
    retrain=Retrain(min_new_labels=10),
)


def _labels(codes: Sequence[int | None], known: datetime = START) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "row_key": [str(i) for i in range(len(codes))],
            "label": pl.Series(codes, dtype=pl.Int8),
            "label_known_at": pl.Series([known] * len(codes), dtype=pl.Datetime("us", "UTC")),
        }
    )


def _predictions(predicted: Sequence[str | None], scores: Sequence[float]) -> pl.DataFrame:
    keys = [str(i) for i in range(len(scores))]
    return pl.DataFrame({"row_key": keys, "score": scores, "predicted": pl.Series(predicted, dtype=pl.String)})


def _events(predicted: Sequence[str | None], codes: Sequence[int | None]) -> list[int | None]:
    joined = join_labels(_predictions(predicted, [0.5] * len(codes)), _labels(codes), as_of=END)
    return as_event(joined, CLASSES).frame["label"].to_list()


def test_an_event_is_that_the_predicted_class_happened() -> None:
    assert _events(["apple", "pear", "quince"], [0, 2, 2]) == [1, 0, 1]


def test_without_a_label_or_a_predicted_class_there_is_no_event() -> None:
    assert _events(["apple", None], [None, 1]) == [None, None]


def test_a_class_that_the_label_no_longer_has_did_not_happen() -> None:
    assert _events(["banana"], [1]) == [0]


def test_a_log_from_before_there_were_classes_has_no_events() -> None:
    joined = join_labels(_predictions(["apple"], [0.5]).drop("predicted"), _labels([0]), as_of=END)
    assert as_event(joined, CLASSES).frame["label"].to_list() == [None]


def test_the_accuracy_is_the_share_of_right_classes_however_unsure() -> None:
    joined = join_labels(_predictions(["apple"] * 4, [0.4] * 4), _labels([0, 0, 0, 1]), as_of=END)
    found = of_top_label(performance(as_event(joined, CLASSES))).quality
    assert found is not None
    assert (found.accuracy, found.accuracy_interval) == (0.75, share_interval(3, 4))
    assert found.log_loss == pytest.approx(quality([1, 1, 1, 0], [0.4] * 4).log_loss)


def test_of_nothing_labelled_there_is_no_quality() -> None:
    joined = join_labels(_predictions(["apple"], [0.4]), _labels([None]), as_of=END)
    assert of_top_label(performance(as_event(joined, CLASSES))).quality is None


def test_two_models_are_compared_by_the_rows_that_they_have_right() -> None:
    labels = _labels([0, 0, 0, 0])
    sure = as_event(join_labels(_predictions(["apple"] * 3 + ["pear"], [0.6] * 4), labels, as_of=END), CLASSES)
    unsure = as_event(join_labels(_predictions(["pear"] * 4, [0.34] * 4), labels, as_of=END), CLASSES)
    found = accuracy_gain(sure, unsure)
    assert (found.mean, found.rows) == (0.75, 4)  # though the loss of the other one on its own event is the lower


def _frames(rows: int = 1_200, *, wrong: float = 0.2, seed: int = 0) -> dict[str, pl.DataFrame]:
    """A reference, a week of predictions that are right in 1 - `wrong` of the rows and say 0.8, and their labels."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 3, rows)
    given = np.where(random.random(rows) < wrong, (codes + 1) % 3, codes)
    times = pl.Series([START + timedelta(days=6) * (i / rows) for i in range(rows)], dtype=pl.Datetime("us", "UTC"))
    frame = _predictions([CLASSES[code] for code in given], [0.8] * rows).with_columns(
        pl.Series("image", random.random((rows, 4)).tolist(), dtype=pl.List(pl.Float32)),
        shop=pl.Series(random.choice(["S1", "S2"], rows).tolist()),
        event_time=times,
        served_at=times,
        version=pl.lit(1, dtype=pl.Int64),
    )
    labels = _labels(codes.tolist()).with_columns(label_known_at=times + timedelta(hours=2))
    reference = frame.select("image", "score", "predicted", label=pl.lit(1)).head(600)
    return {"reference": reference, "predictions": frame, "labels": labels}


HOLDOUT = replace(quality([1, 0], [0.8, 0.8]), accuracy=0.8)


def _watched(frames: dict[str, pl.DataFrame], holdout: Quality = HOLDOUT, **other: Any) -> WindowResult:
    champion = Champion(1, START - timedelta(days=20), holdout)
    return watch(FRUIT, Window(START, END, END), champion, **frames, **other)


def test_a_model_that_keeps_its_word_is_no_reason_to_act() -> None:
    seen = _watched(_frames())
    assert seen.evidence.surprise is None
    assert seen.live.quality is not None
    assert seen.live.quality.accuracy == pytest.approx(0.8, abs=0.05)
    assert {one.column for one in seen.live.slices} == {"shop"}
    assert "on the champion's hold-out it was in 80.0%" in seen.decision.reason


def test_a_model_that_is_wrong_more_often_than_it_says_is_trained_again() -> None:
    known = _labels([0] * 5_000).with_columns(pl.format("old {}", "row_key").alias("row_key"))
    before = known.with_columns(label_known_at=pl.lit(START - timedelta(days=30)).cast(pl.Datetime("us", "UTC")))
    frames = _frames(wrong=0.5)
    seen = _watched(frames | {"labels": pl.concat([before, frames["labels"]])})
    assert seen.decision.action == "retrain"
    assert "promised" in seen.decision.reasons[0]


def test_the_arrays_and_the_predicted_class_are_watched_for_drift() -> None:
    frames = _frames()
    assert [column.name for column in _watched(frames).drift.columns] == [
        "image mean", "image spread", "score", "predicted",
    ]  # fmt: skip
    apples = frames["predictions"].with_columns(predicted=pl.lit("apple"))
    assert _watched(frames | {"predictions": apples}).drift.drifted == ("predicted",)


def test_a_reference_without_the_predicted_class_says_nothing_of_it() -> None:
    frames = _frames()
    seen = _watched(frames | {"reference": frames["reference"].drop("predicted")})
    assert "predicted" not in seen.drift.note
    assert "predicted" not in {column.name for column in seen.drift.columns}


def test_a_model_left_alone_is_beaten_by_the_rows_that_it_has_wrong() -> None:
    frames = _frames()
    alone = frames["predictions"].select(
        "row_key", "event_time", "version", score=pl.lit(0.34), predicted=pl.lit("pear")
    )
    seen = _watched(frames, static=alone)
    assert seen.gain is not None
    assert seen.gain.low > 0.3
