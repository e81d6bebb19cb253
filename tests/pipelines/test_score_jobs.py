"""Batch scoring jobs on a use case with feature views: the joins, the command, and the flow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from features.training_set import historical_features, population_rows
from millrace.cli import main
from millrace.errors import FeatureError
from pipelines import data, models
from pipelines.score_jobs import score_job
from pipelines.scoring import score_with
from pipelines.workspace import Workspace, open_workspace
from serving.batch import calibration
from serving.batch.spec import JobSpec

from .conftest import CASES, START

SINCE = START - timedelta(days=5)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform on which version 1 of the tiny use case serves, whatever it costs on a busy machine."""
    home = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        with open_workspace("taxi", home) as ws:
            data.ingest(ws, as_of=START)
            data.materialize(ws, as_of=START)
            models.train_and_gate(ws, as_of=START)
            if ws.db.champion("taxi") is None:
                models.promote(ws, 1, as_of=START, override="What it costs is no question here.")
    return home


@pytest.fixture
def ws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open, and named by the environment."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    monkeypatch.setattr(calibration, "BUDGET_SECONDS", 0.02)
    with open_workspace("taxi") as workspace:
        yield workspace


@pytest.fixture
def population(ws: Workspace) -> pl.DataFrame:
    """Trips with their keys, request inputs and moments of prediction."""
    return population_rows(ws.use_case, ws.lake, since=SINCE, until=START, as_of=START)


@pytest.fixture
def rows(population: pl.DataFrame, tmp_path: Path) -> Path:
    """The same, in no order, in a file."""
    path = tmp_path / "rows.parquet"
    population.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    return path


def asked(given: object, output: object, **more: Any) -> JobSpec:
    return JobSpec("taxi", str(given), str(output), **{"chunk_rows": 100, "log": False, **more})


def test_the_point_in_time_join_is_the_training_sets(
    ws: Workspace, population: pl.DataFrame, rows: Path, tmp_path: Path
) -> None:
    done = score_job(ws, asked(rows, tmp_path / "out"), at=START)
    assert (done.join, done.scored) == ("point-in-time", population.height)
    wanted = score_with(ws, historical_features(ws.use_case, ws.settings, population), 1).sort("trip")
    found = pl.read_parquet(tmp_path / "out").sort("trip")
    assert found.select("trip", "event_time", "score").equals(wanted.select("trip", "event_time", "score"))


def test_the_populations_own_table_is_scored_at_its_moments_of_prediction(
    ws: Workspace, population: pl.DataFrame, tmp_path: Path
) -> None:
    spec = asked("lake:raw/planned", tmp_path / "out", start=SINCE, until=START)
    assert score_job(ws, spec, at=START).rows == population.height
    found = pl.read_parquet(tmp_path / "out").sort("trip")
    assert found.select("trip", "event_time").equals(population.sort("trip").select("trip", "event_time"))


def test_without_a_time_the_features_are_those_of_the_jobs_moment(
    ws: Workspace, population: pl.DataFrame, tmp_path: Path
) -> None:
    population.drop("event_time").write_parquet(tmp_path / "rows.parquet")
    done = score_job(ws, asked(tmp_path / "rows.parquet", tmp_path / "out", as_of=START), at=datetime.now(START.tzinfo))
    assert done.join == "latest"
    at_once = population.with_columns(event_time=pl.lit(START).cast(pl.Datetime("us", "UTC")))
    wanted = score_with(ws, historical_features(ws.use_case, ws.settings, at_once), 1).sort("trip")
    assert pl.read_parquet(tmp_path / "out").sort("trip")["score"].to_list() == wanted["score"].to_list()


def test_given_features_are_taken_as_they_are(ws: Workspace, population: pl.DataFrame, tmp_path: Path) -> None:
    featured = historical_features(ws.use_case, ws.settings, population).with_columns(zone_late=pl.lit(0.9))
    featured.write_parquet(tmp_path / "rows.parquet")
    done = score_job(ws, asked(tmp_path / "rows.parquet", tmp_path / "out"), at=START)
    assert done.join == "given"
    wanted = score_with(ws, featured, 1).sort("trip")
    assert pl.read_parquet(tmp_path / "out").sort("trip")["score"].to_list() == wanted["score"].to_list()


def test_a_row_without_its_moment_is_rejected(ws: Workspace, population: pl.DataFrame, tmp_path: Path) -> None:
    population.with_columns(event_time=pl.when(pl.int_range(pl.len()) != 3).then("event_time")).write_parquet(
        tmp_path / "rows.parquet"
    )
    done = score_job(ws, asked(tmp_path / "rows.parquet", tmp_path / "out"), at=START)
    assert (done.rejected, done.reasons) == (1, {"event_time is missing": 1})


def test_a_missing_request_input_is_named_before_the_first_chunk(
    ws: Workspace, population: pl.DataFrame, tmp_path: Path
) -> None:
    population.drop("hour").write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(FeatureError, match="hour"):
        score_job(ws, asked(tmp_path / "rows.parquet", tmp_path / "out"), at=START)


def test_the_command_scores_and_the_second_time_says_it_is_done(
    ws: Workspace, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "taxi", "--input", str(rows), "--output", str(tmp_path / "out"), "--json"]
    told = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0
        told.append(json.loads(capsys.readouterr().out))
    assert [one["repeated"] for one in told] == [False, True]
    assert told[1]["job"] == told[0]["job"]


def test_the_commands_exit_code_says_that_rows_were_rejected(
    ws: Workspace, population: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = population.with_columns(zone=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("\0")).otherwise("zone"))
    bad.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SystemExit) as ended:
        main(["score", "taxi", "--input", str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "out")])
    assert ended.value.code == 10
    assert "zone must be a text" in capsys.readouterr().out


def test_jobs_are_listed_shown_and_cancelled(ws: Workspace, rows: Path, tmp_path: Path, capsys: Any) -> None:
    done = score_job(ws, asked(rows, tmp_path / "out"), at=START)
    said = []
    for command in (["list", "taxi"], ["show", "taxi", done.job[:8]], ["cancel", "taxi", done.job]):
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *command, "--json"])
        assert ended.value.code == 0
        said.append(json.loads(capsys.readouterr().out))
    assert done.job in {job["job"] for job in said[0]["jobs"]}
    assert (said[1]["chunks_done"], said[1]["input_rows"]) == (done.chunks, done.rows)
    assert said[2]["state"] == "done"
