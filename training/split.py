"""Which labelled rows a model is fitted on and which are kept for the gate: always split in time, never at random.

The hold-out is the last stretch of labelled rows. A fit row's label was known before the hold-out began, so that what
is measured on it is what a model trained at that moment would have done. This module knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from millrace.errors import TrainingError
from millrace.outcomes import LABEL_KNOWN_AT
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL, Training


@dataclass(frozen=True, slots=True)
class Split:
    """Rows in time order. `fit` lies before `cut` with its labels known by then; `holdout` lies after it."""

    fit: pl.DataFrame
    holdout: pl.DataFrame
    cut: datetime


def split_in_time(rows: pl.DataFrame, training: Training, *, as_of: datetime, classes: int = 0) -> Split:
    """Split labelled rows (`event_time`, `label_known_at`, `label`: 0 or 1, or a class) as `training` says, at `as_of`.

    Rows without a label, or older than `training.history`, are left out. Raises `TrainingError` when there is nothing
    to fit or to judge on: no rows, no labels, one outcome only, a class that the fit rows lack, fewer than
    `training.min_rows`.
    """
    if not rows.height:
        raise TrainingError(
            f"There is nothing to train on: no row was known by {as_of:%Y-%m-%d %H:%M} UTC.",
            todo="Ingest earlier data, or train as of a later moment: --as-of.",
        )
    labelled = rows.filter(pl.col(LABEL).is_not_null(), pl.col(LABEL_KNOWN_AT) <= as_of)
    if not labelled.height:
        raise TrainingError(
            f"There is nothing to train on: of {rows.height} rows none had a label by {as_of:%Y-%m-%d %H:%M} UTC.",
            todo="Labels arrive late: train as of a later moment (--as-of), or check the label's column.",
        )
    labelled = labelled.filter(pl.col(EVENT_TIME) > as_of - training.history).sort(EVENT_TIME, maintain_order=True)
    newest: Any = labelled.get_column(EVENT_TIME).max() or as_of
    cut = newest - training.holdout
    before = (pl.col(EVENT_TIME) <= cut) & (pl.col(LABEL_KNOWN_AT) <= cut)
    found = Split(labelled.filter(before), labelled.filter(pl.col(EVENT_TIME) > cut), cut)
    _check_enough(found, training)
    _check_outcomes(found.fit, "the rows to fit on", classes)
    _check_outcomes(found.holdout, f"the hold-out (the last {_told(training.holdout)})", classes)
    lacking = set(range(classes)) - set(found.fit.get_column(LABEL).unique())
    if lacking:
        raise TrainingError(
            f"A model cannot be trained: {len(lacking)} of {classes} classes have no row to fit on.",
            todo="Train on a longer stretch: training=Training(history=…), or a later --as-of.",
        )
    return found


def _check_enough(found: Split, training: Training) -> None:
    if found.fit.height < training.min_rows:
        raise TrainingError(
            f"There is too little to train on: {found.fit.height} labelled rows, {training.min_rows} are wanted.",
            looked=f"Rows of the last {_told(training.history)} whose label was known by {found.cut:%Y-%m-%d %H:%M} "
            f"UTC, where the hold-out of {_told(training.holdout)} begins.",
            todo="Train as of a later moment, or lower min_rows: training=Training(min_rows=…).",
        )


def _check_outcomes(rows: pl.DataFrame, which: str, classes: int) -> None:
    outcomes = sorted(rows.get_column(LABEL).unique().to_list())
    if not set(outcomes) <= set(range(classes or 2)):
        raise TrainingError(
            f"The label must be {'0 or 1' if not classes else f'one of {classes} classes'}; "
            f"{which} hold {', '.join(map(str, outcomes[:5]))}."
        )
    if len(outcomes) < 2:
        seen = f"all {rows.height} have the outcome {outcomes[0]}" if outcomes else "there are none"
        raise TrainingError(
            f"A model cannot be trained: {which} show one outcome only ({seen}).",
            todo="Train on a longer stretch: training=Training(history=…, holdout=…), or a later --as-of.",
        )


def _told(span: timedelta) -> str:
    """Whole days as days, anything else as hours."""
    return f"{span.days} days" if span == timedelta(days=span.days) else f"{span / timedelta(hours=1):g} hours"
