"""Naive policies: which are asked for, when they train, and what a comparison on the same rows says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import log

import polars as pl
import pytest

from millrace.errors import MillraceError
from pipelines.policies import LOOP, Standing, as_rows, chosen, due, standings

START = datetime(2024, 1, 30, tzinfo=UTC)
POLICIES = ("never", "monthly", "weekly")


def scored(**scores: float) -> pl.DataFrame:
    """Four days at the turn of a month, each row's outcome 1, each policy with one score."""
    times = [START + timedelta(days=day) for day in range(4)]
    return pl.DataFrame({"event_time": times, "label": [1] * 4}).with_columns(
        pl.lit(score).alias(name) for name, score in scores.items()
    )


def stand(frame: pl.DataFrame, **trainings: int) -> dict[str, Standing]:
    counts = {LOOP: 2, "never": 0, "monthly": 1, "weekly": 4} | trainings
    return {one.policy: one for one in standings(frame, POLICIES, counts, counts)}


SCORES = {LOOP: 0.8, "never": 0.5, "monthly": 0.6, "weekly": 0.8}


def test_never_is_always_among_those_compared_with() -> None:
    assert chosen("weekly") == ("never", "weekly")


def test_none_asks_for_no_comparison() -> None:
    assert chosen("none") == chosen("") == ()


def test_an_unknown_policy_is_named_with_those_that_there_are() -> None:
    with pytest.raises(MillraceError, match=r"no naive policy 'daily'(.|\n)*never, monthly, weekly"):
        chosen("weekly, daily")


@pytest.mark.parametrize(("policy", "weeks"), [("never", []), ("monthly", [4, 8]), ("weekly", list(range(1, 10)))])
def test_a_policy_trains_by_its_calendar(policy: str, weeks: list[int]) -> None:
    assert [week for week in range(1, 10) if due(policy, week)] == weeks


def test_the_loss_is_that_of_the_rows() -> None:
    assert stand(scored(**SCORES))["monthly"].log_loss == pytest.approx(-log(0.6))


def test_the_gain_is_against_never_training_again() -> None:
    found = stand(scored(**SCORES))
    assert found["never"].gain == 0
    assert found[LOOP].gain == pytest.approx(log(0.8 / 0.5))


def test_the_share_is_of_the_weekly_gain() -> None:
    found = stand(scored(**SCORES))
    assert found[LOOP].share == pytest.approx(1)
    assert found["monthly"].share == pytest.approx(log(0.6 / 0.5) / log(0.8 / 0.5))


def test_there_is_no_share_of_a_weekly_policy_that_gains_nothing() -> None:
    assert stand(scored(**SCORES | {"weekly": 0.4}))[LOOP].share is None


def test_a_policy_that_never_trained_has_no_gain_per_training() -> None:
    found = stand(scored(**SCORES))
    assert found["never"].gain_per_training is None
    assert found[LOOP].gain_per_training == pytest.approx(log(0.8 / 0.5) / 2)


def test_months_are_those_of_the_rows_and_the_better_ones_are_counted() -> None:
    frame = scored(**SCORES).with_columns(
        pl.when(pl.col("event_time") < datetime(2024, 2, 1, tzinfo=UTC)).then(0.4).otherwise(0.8).alias(LOOP)
    )
    found = stand(frame)[LOOP]
    assert list(found.months) == ["2024-01", "2024-02"]
    assert found.better_months == 1


def test_rows_that_lack_a_label_or_a_score_count_for_nobody() -> None:
    frame = scored(**SCORES)
    frame = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(None).otherwise(pl.col("label")).alias("label"),
        pl.when(pl.int_range(pl.len()) == 1).then(None).otherwise(pl.col("weekly")).alias("weekly"),
    )
    assert stand(frame)["never"].rows == 2


def test_without_rows_there_is_nothing_to_compare() -> None:
    assert standings(scored(**SCORES).clear(), POLICIES, {}, {}) == []


def test_standings_are_plain_rows_for_json() -> None:
    rows = as_rows(list(stand(scored(**SCORES)).values()))
    assert [row["policy"] for row in rows] == [LOOP, *POLICIES]
    assert rows[0]["months"].keys() == {"2024-01", "2024-02"}
