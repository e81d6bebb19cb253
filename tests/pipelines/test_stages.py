"""The stages in order on a tiny use case: what each leaves behind, and what each says when it cannot work."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from features.training_set import historical_features
from millrace import Monitor
from millrace.errors import BusyError, GateError, NoChampionError, NoDataError
from millrace.prediction_log import TABLE
from pipelines import data, models, scoring, status, watching
from pipelines.workspace import Workspace, open_workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
WEEK = timedelta(days=7)


def test_the_first_champion_has_kept_every_limit(ws: Workspace):
    champion = ws.db.champion("taxi")
    assert champion.candidate == "logistic"
    assert champion.verdict["passed"]
    assert {limit["metric"] for limit in champion.verdict["limits"]} == {"roc_auc", "p99_ms", "memory_mb"}


def test_its_features_and_its_scores_were_asked_again_along_the_path_that_serves(ws: Workspace):
    checks = {one["name"]: one["figures"] for one in ws.db.champion("taxi").verdict["checks"]}
    assert (checks["parity"]["mismatches"], checks["scores"]["mismatches"]) == (0, 0)
    assert checks["scores"]["rows"] >= 200


def test_ingesting_again_brings_nothing_new(ws: Workspace):
    assert data.ingest(ws, as_of=START).rows == 0


def test_online_values_equal_the_offline_ones_at_the_same_instant(ws: Workspace):
    row = {"zone": "Z1", "hour": 5, "trip": "T1"}
    answer = status.predict(ws, [row], at=START)["predictions"][0]
    offline = historical_features(ws.use_case, ws.settings, pl.DataFrame([row | {"event_time": START}]))
    assert answer["features"] == {name: offline[name][0] for name in answer["features"]}
    assert answer["score"] == pytest.approx(scoring.score_with(ws, offline, 1)["score"][0], abs=1e-9)


def test_a_stretch_is_scored_once_however_often_it_is_asked_for(ws: Workspace):
    data.ingest(ws, as_of=START + WEEK)
    first = scoring.score(ws, start=START, end=START + WEEK, as_of=START + WEEK, shadow=1)
    again = scoring.score(ws, start=START, end=START + WEEK, as_of=START + WEEK, shadow=1)
    assert (first.rows, first.logged, again.logged) == (504, 504, 0)
    assert ws.lake.scan(TABLE).collect().height == 504
    assert ws.lake.scan(scoring.SHADOW).collect().height == 504


def test_scores_before_the_first_champion_are_refused(ws: Workspace):
    with pytest.raises(NoChampionError, match=r"before taxi had a champion.*later --from"):
        scoring.score(ws, start=START - WEEK, end=START, as_of=START)


def test_scoring_where_there_are_no_rows_says_so(ws: Workspace):
    late = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(NoDataError, match="nothing to score"):
        scoring.score(ws, start=late, end=late + WEEK, as_of=START + WEEK)


def test_watching_a_window_without_predictions_is_an_alert(ws: Workspace):
    seen = watching.watch(ws, start=START - WEEK, end=START, as_of=START)
    assert (seen.action, seen.decision.severity, seen.result.rows) == ("alert", "warning", 0)
    assert seen.reason.startswith("There are no predictions from 2024-01-13 00:00 to 2024-01-20 00:00 UTC.")


def test_a_window_is_watched_decided_and_recorded(ws: Workspace):
    seen = watching.watch(ws, start=START, end=START + WEEK, as_of=START + WEEK)
    row = ws.db.windows("taxi")[-1]
    assert (row.start, row.end, row.rows, row.action) == (START, START + WEEK, 504, seen.action)
    assert row.metrics["log_loss_live"] == row.metrics["log_loss_static"]  # the same model twice
    assert seen.reason


def test_watching_again_gives_the_same_result_and_one_row(ws: Workspace):
    before = ws.db.windows("taxi")[-1]
    watching.watch(ws, start=START, end=START + WEEK, as_of=START + WEEK)
    after = ws.db.windows("taxi")
    assert [window.start for window in after] == [START - WEEK, START]
    assert (after[1].metrics, after[1].drifted, after[1].reason) == (before.metrics, before.drifted, before.reason)


def test_restating_measures_with_later_labels_and_keeps_what_was_first_seen(ws: Workspace):
    first = ws.db.windows("taxi")[-1]
    data.ingest(ws, as_of=START + WEEK + timedelta(days=1))
    watching.restate(ws, as_of=START + WEEK + timedelta(days=1))
    restated = ws.db.windows("taxi")[-1]
    assert restated.labelled == 504 > first.labelled
    when = (START + WEEK).isoformat()
    figures = {name: value for name, value in first.metrics.items() if name != "watched"}
    assert restated.metrics["first_seen"] == figures | {"labelled": first.labelled, "as_of": when}


def test_a_window_of_too_few_rows_to_compare_is_watched_without_a_report(ws: Workspace):
    strict = replace(ws, use_case=replace(ws.use_case, monitor=Monitor(min_rows=10_000)))
    seen = watching.watch(strict, start=START, end=START + WEEK, as_of=START + WEEK, report=True)
    assert seen.report is None
    assert "rows" in seen.result.drift.note


def test_a_training_on_the_same_rows_does_not_replace_an_equal_champion(ws: Workspace):
    done = models.train_and_gate(ws, as_of=START)
    assert not done.outcome.promoted
    assert ws.db.champion("taxi").version == 1
    assert "refused" in {decision.action for decision in ws.db.decisions("taxi")}


def test_one_process_trains_a_use_case_at_a_time(ws: Workspace):
    before = len(ws.db.models("taxi"))
    with ws.db.lease("train taxi"), pytest.raises(BusyError, match="already doing this"):
        models.train_and_gate(ws, as_of=START)
    assert len(ws.db.models("taxi")) == before


def test_a_refused_version_needs_a_reason_to_serve_and_can_be_rolled_back(ws: Workspace):
    refused = next(row.version for row in ws.db.models("taxi") if row.status == "refused")
    with pytest.raises(GateError, match="--override"):
        models.promote(ws, refused, as_of=START)
    models.promote(ws, refused, as_of=START + WEEK, override="to see it")
    assert ws.db.champion("taxi").version == refused
    assert "to see it" in ws.db.decisions("taxi")[-1].reason
    assert models.rollback(ws, as_of=START + 2 * WEEK)["version"] == 1


def test_a_use_case_without_a_champion_says_how_to_get_one(environment):
    with open_workspace("taxi") as ws:
        with pytest.raises(NoChampionError, match="millrace train taxi"):
            status.predict(ws, [{"zone": "Z1", "hour": 1}], at=START)
        assert "millrace train taxi" in status.status(ws, as_of=START)["champion"]


def test_ingesting_before_any_data_leaves_nothing_behind(environment):
    early = datetime(2000, 1, 1, tzinfo=UTC)
    with open_workspace("taxi") as ws:
        with pytest.raises(NoDataError, match="later --as-of"):
            data.ingest(ws, as_of=early)
        assert ws.lake.tables() == []
        assert ws.db.runs("taxi")[0].state == "failed"


def test_watching_before_anything_was_predicted_says_what_to_type(ws: Workspace, environment):
    with open_workspace("taxi") as empty:
        empty.db.add_model(replace(ws.db.champion("taxi")))
        with pytest.raises(NoDataError, match="millrace score taxi"):
            watching.watch(empty, start=START, end=START + WEEK, as_of=START + WEEK)


def test_training_before_ingesting_says_to_ingest_first(environment):
    with open_workspace("taxi") as ws, pytest.raises(NoDataError, match="millrace ingest"):
        models.train_and_gate(ws, as_of=START)
