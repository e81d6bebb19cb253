"""Which predictions a window is made of, and the bounded sample of them that tests look at.

Nothing here depends on the order in which rows arrive, and whole frames are not copied when all their rows count: a
window of a million wide rows is looked at where it lies. This module knows nothing of tests, labels or models.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from millrace.outcomes import PREDICTION_ID, ROW_KEY
from millrace.source import EVENT_TIME

_ORDER = (EVENT_TIME, "served_at", PREDICTION_ID)
"""What predictions are sorted by: the instant predicted at, which is when a late answer would have been given, when it
was served, and its name."""


def inside(predictions: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """The rows with an `event_time` in [start, end), in their order; all of them when there are no times."""
    if EVENT_TIME not in predictions.columns:
        return predictions
    within = predictions[EVENT_TIME].is_between(start, end, closed="left").fill_null(value=False)
    return predictions if within.all() else predictions.filter(within)


def last_of_each_row(predictions: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The last prediction of each row key and how many others there were.

    Predictions without a key are all kept: nothing says that two of them are of one row.
    """
    if ROW_KEY not in predictions.columns:
        return predictions, 0
    keyless = pl.col(ROW_KEY).fill_null("") == ""
    names = [name for name in (ROW_KEY, *_ORDER) if name in predictions.columns]
    narrow = predictions.select(names).with_row_index("_at")
    keyed = narrow.filter(~keyless)
    if keyed[ROW_KEY].n_unique() == keyed.height:
        return predictions, 0
    last = in_order(keyed).unique(ROW_KEY, keep="last", maintain_order=True)["_at"]
    kept = pl.concat([last, narrow.filter(keyless)["_at"]]).sort()
    return predictions[kept], predictions.height - len(kept)


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame sorted by when its predictions were made; as it is when it does not say."""
    names = [name for name in _ORDER if name in frame.columns]
    return frame.sort(names, maintain_order=True) if names else frame


def sample(frame: pl.DataFrame, rows: int, seed: int) -> pl.DataFrame:
    """At most `rows` rows of the frame, sorted, drawn without replacement; the same for the same rows and seed, in
    whatever order they came. Costs a sort of the columns that give the order, whatever else the frame has."""
    names = [name for name in _ORDER if name in frame.columns]
    if frame.height <= rows:
        return in_order(frame)
    drawn = np.sort(np.random.default_rng(seed).choice(frame.height, rows, replace=False))
    if not names:
        return frame[drawn]
    order = frame.select(names).with_row_index("_at").sort(names, maintain_order=True)["_at"]
    return frame[order.gather(drawn)]
