"""Synthetic windows for the tests of this room."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

START = datetime(2013, 4, 1, tzinfo=UTC)


def _window(
    rows: int, seed: int, *, numbers: int = 6, texts: int = 2, shift: float = 0.0, shifted: int = 0, score: float = 0.0
) -> pl.DataFrame:
    """`numbers` normal columns (the first `shifted` of them moved by `shift`), `texts` categories and a score."""
    rng = np.random.default_rng(seed)
    columns = {f"n{i}": rng.normal(shift if i < shifted else 0.0, 1.0, rows) for i in range(numbers)}
    names = np.array([f"v{i}" for i in range(12)])
    shares = np.arange(1, 13) / 78
    columns |= {f"t{i}": rng.choice(names, rows, p=shares) for i in range(texts)}
    logit = rng.normal(-1.2 + score, 0.8, rows)
    return pl.DataFrame(columns | {"score": 1 / (1 + np.exp(-logit))})


def _logged(frame: pl.DataFrame, seed: int = 0, *, version: int = 1, start: datetime = START) -> pl.DataFrame:
    """The frame as rows of the prediction log, spread evenly over a week from `start`."""
    step = timedelta(days=7) / max(frame.height, 1)
    times = pl.Series("event_time", [start + step * i for i in range(frame.height)], dtype=pl.Datetime("us", "UTC"))
    return frame.with_columns(
        times,
        times.alias("known_at"),
        times.alias("served_at"),
        pl.int_range(pl.len()).cast(pl.String).alias("row_key"),
        pl.concat_str(pl.lit("batch:"), pl.int_range(pl.len()).cast(pl.String)).alias("prediction_id"),
        pl.lit(version, dtype=pl.Int64).alias("version"),
        pl.lit("batch").alias("channel"),
        pl.lit("").alias("flags"),
    )


def _labels_of(predictions: pl.DataFrame, seed: int = 0, *, late: timedelta = timedelta(hours=6)) -> pl.DataFrame:
    """A label for each prediction, drawn with its score as the probability, known `late` after its event time."""
    drawn = np.random.default_rng(seed).random(predictions.height) < predictions["score"].to_numpy()
    return predictions.select(
        "row_key",
        pl.Series("label", drawn).cast(pl.Int8),
        (pl.col("event_time") + late).alias("label_known_at"),
    )


@pytest.fixture
def window() -> Callable[..., pl.DataFrame]:
    """A function that draws a synthetic window."""
    return _window


@pytest.fixture
def logged() -> Callable[..., pl.DataFrame]:
    """A function that turns a window into rows of the prediction log."""
    return _logged


@pytest.fixture
def labels_of() -> Callable[..., pl.DataFrame]:
    """A function that draws the labels of logged predictions."""
    return _labels_of
