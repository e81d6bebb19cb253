"""Batch scores equal the online ones, whatever the chunks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from millrace.bundle import Bundle, open_bundle
from millrace.engine import Engine, open_engine
from millrace.errors import BundleError, FeatureError, RequestError
from millrace.keys import public_key
from millrace.settings import Settings
from serving.batch import score as scoring
from serving.batch.score import score_frame, score_rows

from .conftest import CONTRACT, Promote


@pytest.fixture
def bundle(settings: Settings, promote: Promote) -> Bundle:
    return open_bundle(Path(promote().bundle), public_key=public_key(settings))


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return open_engine(bundle)


FRAME = pl.DataFrame({"other": ["x"] * 1_000, "far": np.linspace(0, 2, 1_000), "delay": np.linspace(-3, 3, 1_000)})


def test_a_frame_and_its_rows_have_the_same_scores(bundle: Bundle, engine: Engine) -> None:
    by_frame = score_frame(bundle.contract, engine, FRAME)
    by_rows = score_rows(bundle.contract, engine, FRAME.select("delay", "far").rows())
    np.testing.assert_array_equal(by_frame, by_rows)
    expected = 1 / (1 + np.exp(-(FRAME["delay"].to_numpy() - FRAME["far"].to_numpy())))
    np.testing.assert_allclose(by_frame, expected, atol=1e-6)


def test_chunks_change_nothing(bundle: Bundle, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_frame(bundle.contract, engine, FRAME)
    monkeypatch.setattr(scoring, "CHUNK_ROWS", 7)
    np.testing.assert_array_equal(score_frame(bundle.contract, engine, FRAME), whole)
    np.testing.assert_array_equal(score_rows(bundle.contract, engine, FRAME.select("delay", "far").rows()), whole)


def test_no_rows_have_no_scores(bundle: Bundle, engine: Engine) -> None:
    assert score_frame(bundle.contract, engine, FRAME.head(0)).shape == (0,)
    assert score_rows(bundle.contract, engine, []).shape == (0,)


def test_a_missing_or_mistyped_column_is_named_before_anything_is_scored(bundle: Bundle, engine: Engine) -> None:
    with pytest.raises(FeatureError, match="far"):
        score_frame(bundle.contract, engine, FRAME.drop("far"))
    with pytest.raises(FeatureError, match="delay"):
        score_frame(bundle.contract, engine, FRAME.with_columns(delay=pl.lit("late")))
    with pytest.raises(RequestError, match="delay"):
        score_rows(bundle.contract, engine, [["late", 0.0]])


def test_scores_that_are_no_numbers_are_refused(bundle: Bundle) -> None:
    class Broken:
        name = "broken"

        def predict(self, matrix: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]  # a test's own engine
            return np.full(len(matrix), np.nan)

    with pytest.raises(BundleError, match="1000 of 1000"):
        score_frame(bundle.contract, Broken(), FRAME)


class Thirds:
    """Of three classes, the second as probable as the first input says; no number where that is missing."""

    name = "thirds"

    def predict(self, matrix: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]  # a test's own engine
        second = matrix[:, 0].astype(np.float64)
        return np.stack([(1 - second) / 2, second, (1 - second) / 2], axis=1)


OF_CLASSES = replace(CONTRACT, classes=("a", "b", "c"))


def test_each_class_has_its_score_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK_ROWS", 7)
    frame = pl.DataFrame({"delay": np.linspace(0, 1, 20, dtype=np.float32), "far": [0.0] * 20})
    scores = score_frame(OF_CLASSES, Thirds(), frame)
    np.testing.assert_array_equal(scores[:, 1], frame["delay"].to_numpy())
    np.testing.assert_array_equal(score_rows(OF_CLASSES, Thirds(), frame.rows()), scores)
    assert score_frame(OF_CLASSES, Thirds(), frame.head(0)).shape == (0, 3)


def test_a_row_with_a_class_without_a_number_counts_once() -> None:
    with pytest.raises(BundleError, match="1 of 2 rows"):
        score_frame(OF_CLASSES, Thirds(), pl.DataFrame({"delay": [0.5, None], "far": [0.0, 0.0]}))
