"""Posted labels in the watching stage: shipped, joined, counted, and seen from their known time on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from millrace.outcome_log import Outcome, OutcomeLog, log_path
from millrace.prediction_log import Prediction, PredictionLog, log_folder, microseconds
from pipelines import data, scoring, watching
from pipelines.served import ship_served
from pipelines.workspace import Workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
WEEK = timedelta(days=7)
END = START + WEEK
HOUR = timedelta(hours=1)


@pytest.fixture
def log(ws: Workspace) -> Iterator[OutcomeLog]:
    log = OutcomeLog(log_path(ws.settings, "taxi"))
    yield log
    log.close()


def unlabelled(ws: Workspace) -> list[str]:
    """The row keys of the window that the source has no label of by its end, the latest first."""
    rows = ws.lake.scan("predictions").filter(pl.col("row_key") != "").sort("event_time", descending=True).collect()
    known = ws.lake.scan("raw/done").filter(pl.col("known_at") <= END).select(pl.col("trip").alias("row_key"))
    keys: list[str] = rows.join(known.collect(), on="row_key", how="anti")["row_key"].to_list()
    return keys


def test_labels_by_key_and_by_id_join_those_of_the_source(ws: Workspace, log: OutcomeLog):
    data.ingest(ws, as_of=END)
    scoring.score(ws, start=START, end=END, as_of=END, shadow=1)
    alone = watching.watch(ws, start=START, end=END, as_of=END).result.live
    by_key, by_id = unlabelled(ws)[:2]
    ids = dict(ws.lake.scan("predictions").select("row_key", "prediction_id").collect().iter_rows())
    said = [Outcome("1", END, row_key=by_key), Outcome("0", END - HOUR, prediction_id=ids[by_id])]
    log.append(said, received_at=END)
    both = watching.watch(ws, start=START, end=END, as_of=END).result
    assert (both.live.labelled, both.live.unmatched) == (alone.labelled + 2, alone.unmatched)
    assert both.static is not None
    assert both.static.labelled == both.live.labelled


def test_labels_of_predictions_that_nobody_made_are_told(ws: Workspace, log: OutcomeLog):
    before = watching.watch(ws, start=START, end=END, as_of=END).result.live.unmatched
    log.append([Outcome("1", END, prediction_id="unknown"), Outcome("1", END, row_key="nobody")], received_at=END)
    assert watching.watch(ws, start=START, end=END, as_of=END).result.live.unmatched == before + 2
    assert [run.detail["unknown_labels"] for run in ws.db.runs("taxi") if run.kind == "monitor"][:2] == [2, 0]


def test_a_correction_holds_from_its_known_time_on(ws: Workspace, log: OutcomeLog):
    trip = (
        ws.lake.scan("raw/done").filter(pl.col("known_at") < END - timedelta(days=2)).sort("known_at").last().collect()
    )
    (key,), (label,) = trip["trip"].to_list(), trip["late"].to_list()
    log.append([Outcome(str(int(not label)), END + HOUR, row_key=key)], received_at=END)
    assert watching.watch(ws, start=START, end=END, as_of=END).result.live.corrected == 0
    assert watching.watch(ws, start=START, end=END, as_of=END + HOUR).result.live.corrected == 1


def test_a_row_that_the_source_knows_too_counts_once_as_a_new_label(ws: Workspace, log: OutcomeLog):
    before = watching.watch(ws, start=START, end=END, as_of=END).result.evidence
    done = ws.lake.scan("raw/done").filter(pl.col("known_at") < END).tail(5).collect()
    log.append(
        [Outcome(str(int(late)), END, row_key=trip) for trip, late in done.select("trip", "late").iter_rows()],
        received_at=END,
    )
    after = watching.watch(ws, start=START, end=END, as_of=END).result.evidence
    assert (after.known_labels, after.new_labels) == (before.known_labels, before.new_labels)


def test_a_prediction_without_a_row_s_key_is_measured_by_its_id(ws: Workspace, log: OutcomeLog):
    before = watching.watch(ws, start=START, end=END, as_of=END).result.live
    online, at = PredictionLog(log_folder(ws.settings, "taxi")), microseconds(START + HOUR)
    online.append({"hour_of_day": "number"}, [Prediction(name, 1, at, at, "", "", 0.5, [1.0]) for name in "vw"])
    online.close()
    log.append([Outcome("1", END, prediction_id="v")], received_at=END)
    after = watching.watch(ws, start=START, end=END, as_of=END).result.live
    assert (after.rows, after.labelled) == (before.rows + 2, before.labelled + 1)


def test_restating_sees_what_was_posted_since(ws: Workspace, log: OutcomeLog):
    before = ws.db.windows("taxi")[-1].labelled
    key = unlabelled(ws)[-1]
    log.append([Outcome("1", END + WEEK, row_key=key)], received_at=END + WEEK)
    watching.restate(ws, as_of=END + WEEK)
    assert ws.db.windows("taxi")[-1].labelled == before + 1


def test_what_the_servers_left_is_shipped_once(ws: Workspace, log: OutcomeLog):
    ship_served(ws)
    log.append([Outcome("1", END, prediction_id="last")], received_at=END)
    assert ship_served(ws) == (0, 1)
    assert ship_served(ws) == (0, 0)
