from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from monitoring.service import service

Frames = Callable[..., pl.DataFrame]


@pytest.fixture
def online(window: Frames, logged: Frames) -> pl.DataFrame:
    """A hundred predictions that a server answered at once."""
    return logged(window(100, seed=0)).with_columns(pl.lit("online").alias("channel"))


def _late(rows: pl.DataFrame, *minutes: float) -> pl.DataFrame:
    """The rows served so many minutes after the instant they are for, in turn."""
    spans = pl.Series([timedelta(minutes=minutes[i % len(minutes)]) for i in range(rows.height)])
    return rows.with_columns((pl.col("event_time") + spans).alias("served_at"))


def test_flags_are_counted_once_a_row_and_kind(online: pl.DataFrame) -> None:
    flags = ["missing:a,missing:b,stale:c"] * 10 + ["stale:c"] * 5 + [""] * 85
    assert service(online.with_columns(pl.Series("flags", flags))).flags == {"missing": 0.1, "stale": 0.15}


def test_rows_are_counted_by_channel_and_version(online: pl.DataFrame) -> None:
    batch = online.with_columns(pl.lit("batch").alias("channel"), pl.lit(2, dtype=pl.Int64).alias("version"))
    found = service(pl.concat([online, batch.head(20)]))
    assert found.channels == {"batch": 20, "online": 100}
    assert found.versions == {"1": 100, "2": 20}


def test_the_cost_is_that_of_the_versions_that_predicted(online: pl.DataFrame) -> None:
    both = pl.concat([online, online.with_columns(pl.lit(2, dtype=pl.Int64).alias("version"))])
    costs = {1: {"p50_ms": 0.2, "joules_per_1000": 3.0}, 2: {"p50_ms": 0.4}}
    found = service(both, costs=costs, price=0.06)
    assert found.core_seconds_per_1000 == pytest.approx(0.3)
    assert found.cost_per_1000 == pytest.approx(0.3 / 3600 * 0.06)
    assert found.joules_per_1000 is None  # version 2 has no figure


def test_a_cost_without_figures_or_price_is_untold(online: pl.DataFrame) -> None:
    assert service(online, costs={7: {"p50_ms": 1.0}}, price=1.0).core_seconds_per_1000 is None
    assert service(online, costs={1: {"p50_ms": 1.0}}).cost_per_1000 is None


@pytest.mark.parametrize(("minutes", "side"), [(60.0, "60 minutes after"), (-60.0, "60 minutes before")])
def test_a_clock_an_hour_off_is_said(online: pl.DataFrame, minutes: float, side: str) -> None:
    found = service(_late(online, minutes, minutes + 0.5, minutes - 0.3))
    assert len(found.problems) == 1
    assert side in found.problems[0]


def test_questions_about_the_past_are_no_wrong_clock(online: pl.DataFrame) -> None:
    assert service(_late(online, 20, 300, 1_000, 4_000)).problems == ()


def test_batch_scores_of_the_past_are_no_wrong_clock(online: pl.DataFrame) -> None:
    batch = _late(online, 600).with_columns(pl.lit("batch").alias("channel"))
    found = service(batch)
    assert (found.problems, found.lag_p50_s) == ((), None)


def test_lags_are_those_of_the_answers(online: pl.DataFrame) -> None:
    assert service(_late(online, 0.5)).lag_p50_s == pytest.approx(30)


def test_an_empty_window_and_one_without_the_log_s_columns_tell_nothing(online: pl.DataFrame) -> None:
    for frame in (online.clear(), online.select("score")):
        found = service(frame)
        assert (found.channels, found.flags, found.lag_p99_s, found.problems) == ({}, {}, None, ())
