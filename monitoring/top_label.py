"""How a model of K classes is watched: by the event that the class it thought most probable is the one that happened.

The prediction log keeps that class and its probability, so the window's outcome is "the predicted class happened" and
the score is its probability: its log loss against what the probabilities promised tells whether they still hold, which
is all that the decision rests on. Two models predict two different events, and one that is sure of little has a low
loss on its own: they are compared by the share of rows that each has right. This module knows nothing of frames beyond
the columns `label`, `predicted` and `score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from millrace.intervals import share_interval
from millrace.outcomes import ROW_KEY, Attached
from millrace.prediction_log import PREDICTED
from millrace.quality import Difference, Quality, paired_difference
from millrace.usecase import LABEL
from monitoring.performance import Performance, hours, scored


def as_event(joined: Attached, classes: Sequence[str]) -> Attached:
    """The predictions with, in the place of the class's position, whether the predicted class happened."""
    return replace(joined, frame=with_event(joined.frame, classes))


def with_event(frame: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """The frame with, in the place of the class's position, whether the predicted class happened: 1 or 0 (Int8).

    Null while the label is unknown, and for a row that no model of classes has predicted.
    """
    if PREDICTED not in frame.columns:
        frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(PREDICTED))
    names = dict(enumerate(classes))
    happened = pl.col(LABEL).replace_strict(names, default=None, return_dtype=pl.String)
    return frame.with_columns((happened == pl.col(PREDICTED)).cast(pl.Int8).alias(LABEL))


def of_top_label(found: Performance) -> Performance:
    """The performance on such events with the share of rows whose class was right as its `accuracy`."""
    return replace(
        found,
        quality=_right(found.quality) if found.quality else None,
        slices=tuple(replace(one, quality=_right(one.quality)) for one in found.slices),
    )


def accuracy_gain(live: Attached, static: Attached, *, seed: int = 0) -> Difference:
    """How much larger a share of the same labelled rows live has right than static (positive: better), of events.

    Paired and resampled by the hour, as `log_loss_gain` is.
    """
    left, right = (scored(side, (ROW_KEY,)) for side in (live, static))
    other = right.select(ROW_KEY, pl.col(LABEL).alias("other"))
    both = left.join(other, on=ROW_KEY, how="inner", maintain_order="left")
    gains = both[LABEL].to_numpy().astype(np.float64) - both["other"].to_numpy()
    return paired_difference(gains, hours(both), seed=seed)


def _right(quality: Quality) -> Quality:
    """Of the event's quality `accuracy` would be that of "at least as probable as not", which nobody asked for."""
    share = quality.positives / quality.rows
    return replace(quality, accuracy=share, accuracy_interval=share_interval(quality.positives, quality.rows))
