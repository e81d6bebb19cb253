"""What the watching stage reads of a window when there is little or nothing to read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from millrace.errors import NoDataError
from millrace.outcome_log import Outcome, OutcomeLog, log_path
from millrace.prediction_log import log_batch
from millrace.settings import Settings
from monitoring.window import Champion, Window, watch
from pipelines.restating import restate_late
from pipelines.served import ship_served
from pipelines.windows import Outcomes, predictions_in, shadow_in
from pipelines.workspace import Workspace, open_workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
DAY = timedelta(days=1)
WINDOW = Window(START, START + DAY, START + DAY)


def predict(ws: Workspace, rows: int) -> None:
    """So many predictions of the window's first instant, trips T0, T1, …"""
    instant = pl.lit(START).cast(pl.Datetime("us", "UTC"))
    number = pl.int_range(rows, eager=True).alias("number").to_frame()
    frame = number.select(
        pl.format("T{}", "number").alias("row_key"),
        pl.lit(1, pl.Int64).alias("version"),
        pl.lit(0.3).alias("score"),
        instant.alias("served_at"),
        instant.alias("event_time"),
    )
    log_batch(ws.lake, frame, batch="rows")


def test_nothing_predicted_ever_says_what_to_type(environment: Settings) -> None:
    with open_workspace("taxi") as ws, pytest.raises(NoDataError, match="millrace score taxi --from 2024-01-20"):
        predictions_in(ws, WINDOW)


def test_before_anything_is_ingested_no_outcome_is_known(environment: Settings) -> None:
    with open_workspace("taxi") as ws:
        found = Outcomes.read(ws, START)
        assert (found.labels.height, found.posted, found.disputed, found.unknown(ws)) == (0, (), 0, 0)
        assert shadow_in(ws, WINDOW) is None
        assert restate_late(ws, START, found) == 0


def test_a_window_without_one_label_is_watched_and_says_so(environment: Settings) -> None:
    with open_workspace("taxi") as ws:
        predict(ws, 200)
        frame, outcomes = predictions_in(ws, WINDOW), Outcomes.read(ws, WINDOW.as_of)
        champion = Champion(1, START - DAY)
        seen = watch(ws.use_case, WINDOW, champion, reference=frame, predictions=frame, labels=outcomes.labels)
        assert (seen.rows, seen.live.labelled) == (200, 0)
        assert "No label is known." in seen.decision.reasons


def test_labels_that_clients_post_count_where_the_source_knows_nothing_yet(environment: Settings) -> None:
    with open_workspace("taxi") as ws:
        predict(ws, 3)
        log = OutcomeLog(log_path(ws.settings, "taxi"))
        log.append([Outcome("1", START, row_key=key) for key in ("T1", "nobody")], received_at=START)
        log.close()
        ship_served(ws)
        found = Outcomes.read(ws, WINDOW.as_of)
        assert (len(found.posted), found.disputed, found.unknown(ws)) == (1, 0, 1)
