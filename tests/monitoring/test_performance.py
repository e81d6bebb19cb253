import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from millrace.errors import LakeError
from millrace.quality import quality
from monitoring.performance import join_labels, log_loss_gain, performance

Frames = Callable[..., pl.DataFrame]
AFTER = datetime(2013, 5, 1, tzinfo=UTC)
NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


def _predictions(*keys: str) -> pl.DataFrame:
    return pl.DataFrame({"row_key": list(keys), "score": [0.5] * len(keys)}, schema_overrides={"row_key": pl.String})


def _labels(*rows: tuple[str, int | None, datetime]) -> pl.DataFrame:
    schema = {"row_key": pl.String(), "label": pl.Int8(), "label_known_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def test_the_quality_is_that_of_the_shared_code(window: Frames, logged: Frames, labels_of: Frames) -> None:
    predictions = logged(window(800, seed=0))
    labels = labels_of(predictions)
    found = performance(join_labels(predictions, labels, as_of=AFTER))
    assert found.quality == quality(labels["label"].to_numpy(), predictions["score"].to_numpy())
    assert found.coverage == 1.0
    assert found.mean_score == pytest.approx(predictions["score"].mean())


def test_the_rows_stay_and_keep_their_order(window: Frames, logged: Frames, labels_of: Frames) -> None:
    predictions = logged(window(300, seed=0)).sample(fraction=1.0, shuffle=True, seed=1)
    joined = join_labels(predictions, labels_of(predictions).head(10), as_of=AFTER).frame
    assert joined.drop("label", "label_known_at").equals(predictions)


def test_a_label_known_later_is_not_seen() -> None:
    labels = _labels(("a", 1, NOON), ("b", 1, NOON + timedelta(seconds=1)))
    joined = join_labels(_predictions("a", "b"), labels, as_of=NOON)
    assert joined.frame["label"].to_list() == [1, None]
    assert performance(joined).coverage == 0.5


def test_the_label_known_last_wins_whatever_the_order() -> None:
    rows = [("a", 0, NOON), ("a", 1, NOON + timedelta(hours=1)), ("b", 1, NOON), ("b", 1, NOON + timedelta(hours=2))]
    for order in (rows, rows[::-1]):
        joined = join_labels(_predictions("a", "b"), _labels(*order), as_of=AFTER)
        assert joined.frame["label"].to_list() == [1, 1]
        assert joined.corrected == 1


def test_labels_that_contradict_each_other_at_one_instant_are_taken_as_one_and_counted() -> None:
    joined = join_labels(_predictions("a"), _labels(("a", 1, NOON), ("a", 0, NOON)), as_of=AFTER)
    assert joined.frame["label"].to_list() == [1]
    assert joined.contradictory == 1
    assert joined.corrected == 0


def test_labels_of_unknown_predictions_are_counted() -> None:
    joined = join_labels(_predictions("a"), _labels(("x", 1, NOON), ("y", 0, NOON), ("a", 0, NOON)), as_of=AFTER)
    assert joined.unmatched == 2


def test_a_null_label_is_no_label() -> None:
    joined = join_labels(_predictions("a"), _labels(("a", None, NOON)), as_of=AFTER)
    assert performance(joined).labelled == 0


def test_a_prediction_without_a_key_has_no_label() -> None:
    joined = join_labels(_predictions("", "a"), _labels(("", 1, NOON), ("a", 1, NOON)), as_of=AFTER)
    assert joined.frame["label"].to_list() == [None, 1]


def test_a_row_predicted_twice_has_its_label_twice() -> None:
    joined = join_labels(_predictions("a", "a"), _labels(("a", 1, NOON)), as_of=AFTER)
    assert joined.frame["label"].to_list() == [1, 1]


def test_labels_join_by_the_population_s_own_columns() -> None:
    predictions = pl.DataFrame({"flight": [1, 2], "day": ["x", "x"], "score": [0.1, 0.9]})
    labels = pl.DataFrame({"flight": [2], "day": ["x"], "label": [True], "label_known_at": [NOON]})
    joined = join_labels(predictions, labels, as_of=AFTER, key=("flight", "day"))
    assert joined.frame["label"].to_list() == [None, 1]


def test_labels_join_by_a_key_that_has_no_text() -> None:
    predictions = pl.DataFrame({"flight": [1, 2], "score": [0.1, 0.9]})
    labels = pl.DataFrame({"flight": [2], "label": [True], "label_known_at": [NOON]})
    assert join_labels(predictions, labels, as_of=AFTER, key=("flight",)).frame["label"].to_list() == [None, 1]


def test_posted_labels_join_beside_those_of_the_source_and_the_last_known_holds() -> None:
    predictions = _predictions("a", "b", "").with_columns(prediction_id=pl.Series(["p", "q", "r"]))
    posted = _labels(("a", 0, NOON + timedelta(hours=1)), ("x", 1, NOON), ("y", 1, NOON - timedelta(hours=1)))
    by_id = _labels(("r", 1, NOON), ("s", 1, NOON + timedelta(days=90))).rename({"row_key": "prediction_id"})
    own = _labels(("a", 1, NOON), ("b", 1, NOON))
    joined = join_labels(predictions, own, posted, by_id, as_of=AFTER, since=NOON)
    assert joined.frame["label"].to_list() == [0, 1, 1]
    assert (joined.unmatched, joined.corrected) == (1, 1)


def test_without_any_label_there_is_no_quality(window: Frames, logged: Frames) -> None:
    found = performance(join_labels(logged(window(50, seed=0)), _labels(), as_of=AFTER))
    assert found.quality is None
    assert (found.rows, found.labelled, found.coverage, found.slices) == (50, 0, 0.0, ())


def test_an_empty_window_has_no_quality_and_no_coverage() -> None:
    found = performance(join_labels(_predictions(), _labels(("a", 1, NOON)), as_of=AFTER))
    assert (found.rows, found.coverage, found.quality) == (0, 0.0, None)


def test_scores_that_are_no_probability_are_left_out_and_counted() -> None:
    predictions = pl.DataFrame({"row_key": list("abcd"), "score": [0.5, None, float("nan"), 1.5]})
    found = performance(join_labels(predictions, _labels(*((key, 1, NOON) for key in "abcd")), as_of=AFTER))
    assert found.unscored == 3
    assert found.quality is not None
    assert found.quality.rows == 1


def test_slices_are_those_asked_for_with_enough_rows(window: Frames, logged: Frames, labels_of: Frames) -> None:
    predictions = logged(window(2_000, seed=0))
    joined = join_labels(predictions, labels_of(predictions), as_of=AFTER)
    found = performance(joined, slices=("t0", "not_there"))
    assert {piece.column for piece in found.slices} == {"t0"}
    counts = dict(predictions["t0"].value_counts().iter_rows())
    assert {piece.value: piece.quality.rows for piece in found.slices} == {k: n for k, n in counts.items() if n >= 100}


@pytest.mark.parametrize("column", ["row_key", "label", "label_known_at"])
def test_labels_that_lack_a_column_are_refused(column: str) -> None:
    with pytest.raises(LakeError, match=f"labels lack the column {column}"):
        join_labels(_predictions("a"), _labels().drop(column), as_of=AFTER)


def test_predictions_without_a_score_are_refused() -> None:
    with pytest.raises(LakeError, match="predictions lack the column score"):
        performance(join_labels(_predictions("a").drop("score"), _labels(), as_of=AFTER))


def test_the_gain_is_the_mean_difference_of_the_log_losses(window: Frames, logged: Frames, labels_of: Frames) -> None:
    live = logged(window(1_000, seed=0))
    labels = labels_of(live)
    static = live.with_columns(pl.lit(0.4).alias("score"))
    joined = [join_labels(frame, labels, as_of=AFTER) for frame in (live, static)]
    gain = log_loss_gain(*joined)
    of_live, of_static = (performance(side).quality for side in joined)
    assert of_live is not None
    assert of_static is not None
    assert gain.mean == pytest.approx(of_static.log_loss - of_live.log_loss)
    assert gain.low < gain.mean < gain.high
    assert (gain.rows, gain.groups) == (1_000, 7 * 24)


def test_the_gain_is_of_the_rows_that_both_have_scored(window: Frames, logged: Frames, labels_of: Frames) -> None:
    live = logged(window(400, seed=0))
    joined = [join_labels(frame, labels_of(live), as_of=AFTER) for frame in (live, live.head(150))]
    assert log_loss_gain(*joined).rows == 150


def test_the_result_is_json(window: Frames, logged: Frames) -> None:
    found = performance(join_labels(logged(window(50, seed=0)), _labels(), as_of=AFTER))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["quality"] is None
