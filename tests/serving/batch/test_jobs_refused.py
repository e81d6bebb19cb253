"""Rows that cannot be scored, and jobs that are refused before their first chunk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_series_equal

from millrace.errors import FeatureError, NoChampionError, ScoreJobError, SettingsError
from pipelines.score_jobs import score_job
from pipelines.workspace import Workspace
from serving.batch.rejects import TABLE as REJECTED

from .conftest import AT, asked, logistic, scores, trips

POISON: dict[str, tuple[dict[str, Any], str]] = {
    "infinite": ({"delay": math.inf}, "delay must be a number that fits a float32"),
    "too large for a float32": ({"far": 1e39}, "far must be a number that fits a float32"),
    "10 MB text": ({"carrier": "x" * 10_000_000}, "carrier must be a text of at most 1,000 characters without NUL"),
    "NUL": ({"trip": "a\0b"}, "trip must be a key of at most 1,000 characters without NUL"),
    "no key": ({"trip": None}, "trip is missing"),
    "no sane time": ({"event_time": AT.replace(year=2500)}, "event_time must be a time between 1900 and 2200"),
}


@pytest.mark.parametrize("what", POISON)
def test_a_poison_row_is_rejected_with_its_reason_and_the_others_are_scored(
    ws: Workspace, tmp_path: Path, out: Path, what: str
) -> None:
    wrong, reason = POISON[what]
    rows = pl.concat(
        [trips(150), trips(1).with_columns(pl.lit(v).alias(n) for n, v in wrong.items()), trips(9)],
        how="vertical_relaxed",
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    done = score_job(ws, asked(tmp_path / "rows.parquet", out), at=AT)
    assert (done.rows, done.scored, done.rejected, done.reasons) == (160, 159, 1, {reason: 1})
    (kept,) = ws.lake.scan(REJECTED).collect().to_dicts()
    assert (kept["run_id"], kept["row"], kept["reason"]) == (done.job, 150, reason)
    assert len(kept["content"]) <= 2_000


def test_what_online_takes_as_missing_is_scored_here_too(ws: Workspace, tmp_path: Path, out: Path) -> None:
    rows = pl.concat(
        [trips(3).with_columns(delay=math.nan), trips(6).tail(3).with_columns(delay=pl.lit(None, pl.Float64))]
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    assert score_job(ws, asked(tmp_path / "rows.parquet", out), at=AT).rejected == 0
    assert_series_equal(scores(out)["score"], logistic(rows), abs_tol=1e-6)


def test_all_wrongs_of_a_row_are_told(ws: Workspace, tmp_path: Path, out: Path) -> None:
    trips(1).with_columns(delay=math.inf, far=-math.inf).write_parquet(tmp_path / "rows.parquet")
    done = score_job(ws, asked(tmp_path / "rows.parquet", out), at=AT)
    (reason,) = done.reasons
    assert reason.startswith("delay must be")
    assert "; far must be" in reason


def test_without_a_champion_there_is_no_job(ws: Workspace, given: Path, out: Path, tmp_path: Path) -> None:
    from millrace.db import Database

    empty = Database.open(ws.settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'empty.db'}"}))
    with pytest.raises(NoChampionError):
        score_job(Workspace(ws.use_case, ws.settings, ws.lake, empty), asked(given, out), at=AT)
    empty.close()


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        (trips().drop("far"), "far"),
        (trips().with_columns(delay=pl.lit("late")), "delay"),
        (trips().with_columns(event_time=pl.lit(3)), "event_time"),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_named_before_the_first_chunk(
    ws: Workspace, tmp_path: Path, out: Path, rows: pl.DataFrame, column: str
) -> None:
    rows.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(FeatureError, match=column):
        score_job(ws, asked(tmp_path / "rows.parquet", out, join="given"), at=AT)
    assert not out.exists()
    (row,) = ws.db.score_jobs.list("late")
    assert (row.state, column in row.error) == ("failed", True)


def test_a_csv_column_of_which_nothing_can_be_read_is_named(ws: Workspace, tmp_path: Path, out: Path) -> None:
    trips().with_columns(delay=pl.lit("late")).write_csv(tmp_path / "rows.csv")
    with pytest.raises(FeatureError, match="delay"):
        score_job(ws, asked(tmp_path / "rows.csv", out), at=AT)
    assert not out.exists()


@pytest.mark.parametrize("output", ["folder", "lake:other", "sql:db:other"])
def test_an_output_with_other_columns_is_refused(
    with_database: Workspace, given: Path, tmp_path: Path, output: str
) -> None:
    ws, other = with_database, pl.DataFrame({"trip": ["T0"], "score": ["high"]})
    (tmp_path / "folder").mkdir()
    other.write_parquet(tmp_path / "folder" / "old.parquet")
    ws.lake.append("other", other)
    other.write_database("other", f"sqlite:///{tmp_path / 'scores.db'}")
    with pytest.raises(ScoreJobError, match="has other columns"):
        score_job(ws, asked(given, tmp_path / output if output == "folder" else output), at=AT)


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("nowhere/*.parquet", "out", "nothing to score"),
        ("sql:postgresql://me:secret@host/db", "out", "no input"),
        ("lake:", "out", "no input"),
        ("in", "lake:scores@3", "no output"),
        ("in", "sql:db:scores; DROP TABLE x", "no output"),
        ("in", "s3://bucket/scores", "no output"),
    ],
)
def test_a_text_that_is_no_input_or_output_says_the_forms(ws: Workspace, source: str, output: str, words: str) -> None:
    with pytest.raises(ScoreJobError, match=words) as caught:
        score_job(ws, asked(source, output), at=AT)
    assert "secret" not in str(caught.value)


def test_a_place_that_the_settings_do_not_name_is_told(ws: Workspace, given: Path) -> None:
    with pytest.raises(SettingsError, match="MILLRACE_PLACES"):
        score_job(ws, asked(given, "sql:nowhere:scores"), at=AT)


def test_a_database_needs_the_key(with_database: Workspace, tmp_path: Path) -> None:
    trips().drop("trip").write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ScoreJobError, match="trip"):
        score_job(with_database, asked(tmp_path / "rows.parquet", "sql:db:scores"), at=AT)
