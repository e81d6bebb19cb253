"""How a window's predictions meet their labels: which columns and labels are needed, and since when each is known.

This module knows nothing of drift, of models or of what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from millrace.outcomes import LABEL_KNOWN_AT, PREDICTION_ID, ROW_KEY, Attached
from millrace.prediction_log import PREDICTED, row_keys
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL, UseCase
from monitoring.drift import SCORE
from monitoring.performance import join_labels
from monitoring.rows import in_order
from monitoring.top_label import as_event


def attach_labels(
    use_case: UseCase,
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    posted: Sequence[pl.DataFrame],
    *,
    start: datetime,
    as_of: datetime,
) -> Attached:
    """The columns that performance needs, with their labels; of K classes, whether the predicted one happened.

    The source knows a label no earlier than the instant predicted at, so those known before the window's `start` are
    not needed, and those known since without a prediction are worth counting. What is posted may say of itself when it
    was known.
    """
    classes = use_case.label.classes
    wanted = {ROW_KEY, PREDICTION_ID, EVENT_TIME, SCORE, *use_case.slices, *([PREDICTED] if classes else [])}
    order = {"served_at"} & set(predictions.columns)
    narrow = predictions.select(name for name in predictions.columns if name in wanted | order)
    narrow = in_order(narrow).drop(order)  # so that sums over them come in one order
    fresh = labels.filter(pl.col(LABEL_KNOWN_AT) >= start)
    joined = join_labels(narrow, fresh, *posted, as_of=as_of, since=start)
    return as_event(joined, classes) if classes else joined


def known_since(labels: pl.DataFrame, posted: Sequence[pl.DataFrame]) -> pl.Series:
    """Since when each row's first label is known; a row that both the source and clients know counts once."""
    if not posted:
        return labels[LABEL_KNOWN_AT]
    of_names: dict[tuple[str, ...], list[pl.DataFrame]] = {}
    for frame in (labels.select(ROW_KEY, LABEL_KNOWN_AT), *(frame.drop(LABEL) for frame in posted)):
        of_names.setdefault(tuple(frame.drop(LABEL_KNOWN_AT).columns), []).append(frame)
    first = [pl.concat(frames).group_by(names).agg(pl.col(LABEL_KNOWN_AT).min()) for names, frames in of_names.items()]
    return pl.concat([frame[LABEL_KNOWN_AT] for frame in first])


def with_row_key(labels: pl.DataFrame, use_case: UseCase) -> pl.DataFrame:
    """The labels with their `row_key` as the prediction log writes it."""
    key = use_case.label.source.key
    if ROW_KEY in labels.columns or not set(key) <= set(labels.columns):
        return labels
    return labels.with_columns(row_keys(key, labels.schema))
