"""Batch scoring jobs: rows in, scores out, once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_series_equal

from millrace.prediction_log import TABLE as PREDICTIONS
from pipelines import score_jobs
from pipelines.score_jobs import run_job, score_job
from pipelines.workspace import Workspace
from serving.batch.plan import Choice, ChunkDone, InputFile, cut

from .conftest import AT, ROWS, asked, logistic, scores, trips


def test_every_row_is_scored_as_the_model_scores_it(ws: Workspace, given: Path, out: Path) -> None:
    done = score_job(ws, asked(given, out), at=AT)
    assert (done.state, done.join, done.rows, done.scored, done.rejected) == ("done", "given", ROWS, ROWS, 0)
    assert_series_equal(scores(out)["score"], logistic(trips()), abs_tol=1e-6)


def test_the_output_has_the_key_the_time_the_score_and_where_it_came_from(
    ws: Workspace, given: Path, out: Path
) -> None:
    done = score_job(ws, asked(given, out), at=AT)
    found = scores(out)
    assert found.columns == ["carrier", "trip", "event_time", "score", "model_version", "scored_at", "run_id"]
    assert found.select("model_version", "scored_at", "run_id").unique().rows() == [(1, AT, done.job)]


def test_a_chunk_is_a_part_of_the_folder_and_nothing_else_stays(ws: Workspace, given: Path, out: Path) -> None:
    done = score_job(ws, asked(given, out), at=AT)
    assert sorted(path.name for path in (out / f"run_id={done.job}").iterdir()) == [
        f"part-{number:06}.parquet" for number in range(5)
    ]
    assert {path.name for path in out.parent.iterdir()} == {"in", "out", "millrace"}
    assert not list((ws.settings.home / "jobs").iterdir())


def test_the_same_job_twice_is_already_done(ws: Workspace, given: Path, out: Path) -> None:
    first = score_job(ws, asked(given, out), at=AT)
    second = score_job(ws, asked(given, out, engine="local"), at=AT + timedelta(days=1))
    assert second.repeated
    assert (second.job, second.digest, second.ended_at) == (first.job, first.digest, first.ended_at)


def test_asked_for_again_it_is_done_again_with_the_same_scores(ws: Workspace, given: Path, out: Path) -> None:
    first = score_job(ws, asked(given, out), at=AT)
    again = score_job(ws, asked(given, out), at=AT + timedelta(days=1), again=True)
    assert not again.repeated
    assert (again.job != first.job, again.digest) == (True, first.digest)


def test_another_model_version_is_another_job(
    ws: Workspace, given: Path, out: Path, promote: Callable[..., Any]
) -> None:
    first = score_job(ws, asked(given, out), at=AT)
    promote(version=2, weights=(2.0, -1.0))
    second = score_job(ws, asked(given, out), at=AT)
    assert (second.version, second.repeated) == (2, False)
    assert second.digest != first.digest


def test_a_lake_table_is_read_and_written_at_a_version(ws: Workspace) -> None:
    ws.lake.append("rows", trips())
    ws.lake.append("rows", trips(10))
    done = score_job(ws, asked("lake:rows@0", "lake:scores"), at=AT)
    assert done.rows == ROWS
    found = ws.lake.scan("scores").sort("trip").collect()
    assert_series_equal(found["score"], logistic(trips()), abs_tol=1e-6)
    assert score_job(ws, asked("lake:rows", "lake:scores"), at=AT).rows == ROWS + 10


def test_sql_rows_become_sql_rows(with_database: Workspace, tmp_path: Path) -> None:
    ws = with_database
    trips().drop("event_time").write_database("rows", f"sqlite:///{tmp_path / 'scores.db'}")
    done = score_job(ws, asked("sql:db:SELECT * FROM rows WHERE trip <> 'T3:0'", "sql:db:scores"), at=AT)
    assert (done.scored, done.rejected) == (ROWS, 0)
    again = score_job(ws, asked("sql:db:SELECT * FROM rows WHERE trip <> 'T3:0'", "sql:db:scores"), at=AT, again=True)
    with sqlite3.connect(tmp_path / "scores.db") as connection:
        rows = connection.execute("SELECT score, model_version, run_id FROM scores ORDER BY trip").fetchall()
    assert_series_equal(pl.Series("score", [row[0] for row in rows]), logistic(trips()), abs_tol=1e-6)
    assert {row[1:] for row in rows} == {(1, again.job)}


def test_postgresql_rows_become_postgresql_rows(ws: Workspace, needs_postgres: str, given: Path) -> None:
    settings = ws.settings.model_copy(update={"places": {"db": needs_postgres}})
    ws = Workspace(ws.use_case, settings, ws.lake, ws.db)
    score_job(ws, asked(given, "sql:db:scores"), at=AT)
    done = score_job(ws, asked("sql:db:SELECT carrier, trip, 0.5 AS delay, 1 AS far FROM scores", "lake:of_sql"), at=AT)
    assert (done.scored, done.rejected) == (ROWS, 0)
    score_job(ws, asked(given, "sql:db:scores"), at=AT, again=True)
    counted = score_job(ws, asked("sql:db:SELECT carrier, trip, score AS delay, 0 AS far FROM scores", "lake:n"), at=AT)
    assert counted.rows == ROWS


def test_a_csv_file_is_read_cell_by_cell(ws: Workspace, tmp_path: Path, out: Path) -> None:
    rows = (
        trips(5)
        .cast({"delay": pl.String})
        .with_columns(delay=pl.when(pl.col("trip") == "T3").then(pl.lit("soon")).otherwise("delay"))
    )
    rows.write_csv(tmp_path / "rows.csv")
    done = score_job(ws, asked(tmp_path / "rows.csv", out), at=AT)
    assert (done.scored, done.rejected) == (4, 1)
    assert done.reasons == {"delay must be a number that fits a float32": 1}
    good = trips(5).filter(pl.col("trip") != "T3")
    assert_series_equal(scores(out)["score"], logistic(good), abs_tol=1e-6)
    assert scores(out)["event_time"].to_list() == good.sort("trip")["event_time"].to_list()


def test_only_the_rows_of_the_stretch_are_scored(ws: Workspace, given: Path, out: Path) -> None:
    since, until = AT - timedelta(minutes=9), AT - timedelta(minutes=2)
    done = score_job(ws, asked(given, out, start=since, until=until), at=AT)
    assert done.rows == 7
    assert sorted(scores(out)["trip"]) == [f"T{number}" for number in range(3, 10)]


def test_rows_without_a_key_are_found_by_their_place(ws: Workspace, tmp_path: Path, out: Path) -> None:
    trips(70).select("delay", "far").write_parquet(tmp_path / "rows.parquet")
    score_job(ws, asked(tmp_path / "rows.parquet", out), at=AT)
    assert sorted(pl.read_parquet(out)["row"]) == list(range(70))


def test_an_input_without_rows_is_done_and_has_its_columns(ws: Workspace, tmp_path: Path, out: Path) -> None:
    trips().head(0).write_parquet(tmp_path / "rows.parquet")
    done = score_job(ws, asked(tmp_path / "rows.parquet", out), at=AT)
    assert (done.state, done.rows, done.scored, done.rejected) == ("done", 0, 0, 0)
    assert pl.read_parquet(out).columns[-4:] == ["score", "model_version", "scored_at", "run_id"]


def test_scores_reach_the_prediction_log_once_with_their_features(ws: Workspace, given: Path, out: Path) -> None:
    done = score_job(ws, asked(given, out, log=True), at=AT)
    logged = ws.lake.scan(PREDICTIONS).sort("row_key").collect()
    assert logged.height == ROWS
    assert logged["row_key"][0] == "UA|T0"
    assert logged["channel"].unique().to_list() == ["batch"]
    both = trips().with_columns(row_key=pl.format("{}|{}", "carrier", "trip")).sort("row_key")
    assert logged.select("event_time", "delay", "far").equals(both.select("event_time", "delay", "far"))
    run_job(ws, done.job)
    assert ws.lake.scan(PREDICTIONS).collect().height == ROWS


def test_small_files_share_a_chunk_and_large_ones_are_cut() -> None:
    files = [InputFile("a", 10), InputFile("b", 10), InputFile("c", 45), InputFile("d", 0), InputFile("e", 5)]
    chunks = cut(files, 20)
    assert [(chunk.first, chunk.rows) for chunk in chunks] == [(0, 20), (20, 20), (40, 20), (60, 10)]
    assert [chunk.rows for chunk in cut([], 20)] == [0]


def test_the_choice_of_the_engine_is_recorded_and_used_again(
    ws: Workspace, given: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.batch import calibration

    first = score_job(ws, asked(given, out), at=AT)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("calibrated again"))
    second = score_job(ws, asked(given, out, chunk_rows=50), at=AT)
    assert second.engine == first.engine
    assert Choice.from_dict(first.engine).machine == calibration.machine()


def test_chunks_arrive_in_any_order_and_the_digest_is_the_same(
    ws: Workspace, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.batch.worker import open_worker

    def backwards(plan: Any, choice: Choice, settings: Any, chunks: Any) -> Iterator[ChunkDone]:
        worker = open_worker(plan, choice, settings)
        yield from (worker.run(chunk) for chunk in reversed(chunks))

    forwards = score_job(ws, asked(given, tmp_path / "a"), at=AT)
    monkeypatch.setattr(score_jobs, "_engine", lambda _: backwards)
    assert score_job(ws, asked(given, tmp_path / "b"), at=AT).digest == forwards.digest
