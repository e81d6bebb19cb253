"""Rows are split in time, and too few of them are refused with what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl
import pytest

from millrace import Training
from millrace.errors import TrainingError
from training.split import split_in_time

RULE = Training(history=timedelta(days=30), holdout=timedelta(days=7), min_rows=500)


def test_the_holdout_is_the_last_stretch_and_every_fit_label_was_known_before_it(
    training_rows: Callable[..., pl.DataFrame], as_of: datetime
) -> None:
    rows = training_rows(as_of)
    found = split_in_time(rows.sample(fraction=1, shuffle=True, seed=1), RULE, as_of=as_of)
    assert found.cut == rows["event_time"].max() - timedelta(days=7)  # type: ignore[operator]  # it is a datetime
    assert found.holdout["event_time"].min() > found.cut  # type: ignore[operator]  # so is this
    assert found.fit["label_known_at"].max() <= found.cut  # type: ignore[operator]  # and this
    assert found.fit["event_time"].min() > as_of - RULE.history  # type: ignore[operator]  # and this
    assert found.fit["event_time"].is_sorted()
    assert found.holdout["event_time"].is_sorted()


def test_a_label_that_becomes_known_after_as_of_is_not_used(
    training_rows: Callable[..., pl.DataFrame], as_of: datetime
) -> None:
    found = split_in_time(training_rows(as_of + timedelta(days=2)), RULE, as_of=as_of)
    assert found.holdout["label_known_at"].max() <= as_of  # type: ignore[operator]  # a datetime


def test_no_rows_are_refused(training_rows: Callable[..., pl.DataFrame], as_of: datetime) -> None:
    with pytest.raises(TrainingError, match="no row was known by 2013-02-10"):
        split_in_time(training_rows(as_of).head(0), RULE, as_of=as_of)


def test_rows_without_a_single_label_are_refused(training_rows: Callable[..., pl.DataFrame], as_of: datetime) -> None:
    rows = training_rows(as_of).with_columns(label=pl.lit(None, dtype=pl.Int8))
    with pytest.raises(TrainingError, match="none had a label"):
        split_in_time(rows, RULE, as_of=as_of)


def test_too_few_rows_are_refused_with_their_number(
    training_rows: Callable[..., pl.DataFrame], as_of: datetime
) -> None:
    with pytest.raises(TrainingError, match="5000 are wanted"):
        split_in_time(training_rows(as_of), replace(RULE, min_rows=5_000), as_of=as_of)


def test_rows_older_than_the_history_are_too_few(training_rows: Callable[..., pl.DataFrame], as_of: datetime) -> None:
    with pytest.raises(TrainingError, match="0 labelled rows"):
        split_in_time(training_rows(as_of), RULE, as_of=as_of + timedelta(days=90))


@pytest.mark.parametrize(("where", "says"), [("fit", "rows to fit on"), ("holdout", r"last 7 days")])
def test_one_outcome_only_is_refused_naming_where(
    training_rows: Callable[..., pl.DataFrame], as_of: datetime, where: str, says: str
) -> None:
    last = pl.col("event_time") > pl.col("event_time").max() - RULE.holdout
    constant = pl.when(last if where == "holdout" else ~last).then(0).otherwise("label").cast(pl.Int8)
    with pytest.raises(TrainingError, match=f"{says}.*one outcome only"):
        split_in_time(training_rows(as_of).with_columns(label=constant), RULE, as_of=as_of)


def test_labels_other_than_zero_and_one_are_refused(
    training_rows: Callable[..., pl.DataFrame], as_of: datetime
) -> None:
    with pytest.raises(TrainingError, match="must be 0 or 1"):
        split_in_time(training_rows(as_of).with_columns(label=pl.lit(2)), RULE, as_of=as_of)
