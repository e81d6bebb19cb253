import json

import numpy as np
import polars as pl
import pytest

from millrace.quality import log_loss, quality
from monitoring.estimate import CAVEAT, estimate, recalibration


def _scored(rows: int, seed: int, *, mean: float = -1.2, intercept: float = 0.0, slope: float = 1.0) -> pl.DataFrame:
    """Scores, and outcomes whose chance is 1 / (1 + exp(-(intercept + slope logit))) of them."""
    random = np.random.default_rng(seed)
    logit = random.normal(mean, 0.8, rows)
    outcome = random.random(rows) < 1 / (1 + np.exp(-(intercept + slope * logit)))
    return pl.DataFrame({"score": 1 / (1 + np.exp(-logit)), "label": outcome.astype(np.int8)})


def test_the_metrics_of_harder_inputs_are_foreseen() -> None:
    window = _scored(20_000, 1, mean=-0.6)
    found = estimate(_scored(5_000, 0), window["score"])
    assert found is not None
    realised = quality(window["label"].to_numpy(), window["score"].to_numpy())
    assert found.log_loss.low < realised.log_loss < found.log_loss.high
    assert found.roc_auc.low < realised.roc_auc < found.roc_auc.high
    assert found.accuracy.low < realised.accuracy < found.accuracy.high
    assert found.log_loss.value > found.log_loss.reference


def test_scores_that_are_too_sure_are_read_as_the_reference_taught() -> None:
    window = _scored(20_000, 1, slope=0.5)
    found = estimate(_scored(5_000, 0, slope=0.5), window["score"])
    assert found is not None
    assert found.slope == pytest.approx(0.5, abs=0.1)
    assert found.log_loss.value == pytest.approx(log_loss(window["label"], window["score"]), abs=0.02)


def test_concept_drift_is_not_seen_and_the_words_say_so() -> None:
    """The outcomes follow the scores no more; the scores are as ever."""
    turned = _scored(5_000, 1, slope=-1.0)
    found = estimate(_scored(5_000, 0), turned["score"])
    assert found is not None
    assert log_loss(turned["label"], turned["score"]) > found.log_loss.high
    assert found.excess_loss == 0.0
    assert CAVEAT in found.sentence
    assert "cannot see concept drift" in found.sentence


def test_the_same_scores_in_another_order_give_the_same_estimate() -> None:
    reference, scores = _scored(2_000, 0), _scored(8_000, 1)["score"]
    assert estimate(reference, scores, seed=4) == estimate(reference, scores.shuffle(seed=2), seed=4)


def test_hours_of_the_reference_are_resampled_whole() -> None:
    """Rows of few hours say less than as many rows of their own."""
    reference = _scored(2_000, 0)
    hour = pl.datetime(2013, 1, 1, time_zone="UTC") + pl.duration(hours=pl.int_range(pl.len()) // 100)
    together = reference.sort("label").with_columns(event_time=hour)
    apart, joint = (estimate(frame, reference["score"]) for frame in (reference, together))
    assert apart is not None
    assert joint is not None
    assert joint.mean_outcome.high - joint.mean_outcome.low > 2 * (apart.mean_outcome.high - apart.mean_outcome.low)


@pytest.mark.parametrize(
    "reference",
    [
        _scored(150, 0),
        _scored(500, 0).with_columns(pl.lit(0, dtype=pl.Int8).alias("label")),
        _scored(500, 0).drop("label"),
        _scored(500, 0).clear(),
    ],
)
def test_a_reference_that_says_too_little_gives_no_estimate(reference: pl.DataFrame) -> None:
    assert estimate(reference, _scored(500, 1)["score"]) is None


def test_scores_that_are_no_probabilities_are_left_out() -> None:
    scores = pl.Series([0.2, 0.4, None, float("nan"), 7.0])
    found = estimate(_scored(500, 0), scores)
    assert found is not None
    assert found.rows == 2
    assert estimate(_scored(500, 0), pl.Series([None, 2.0], dtype=pl.Float64)) is None
    json.dumps(found.as_dict(), allow_nan=False)


def test_separable_outcomes_stay_finite() -> None:
    p = np.array([0.1, 0.2, 0.8, 0.9])
    assert np.isfinite(recalibration(np.array([0.0, 0, 1, 1]), p, np.ones(4))).all()
