"""A tiny signed model on a platform of its own, and rows for its batch scoring jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.db import Database
from millrace.lake import open_lake
from millrace.settings import Settings
from millrace.usecase import UseCase
from pipelines.workspace import Workspace
from serving.batch import calibration
from serving.batch.spec import JobSpec

CASE = Path(__file__).parents[1] / "cases" / "late"
AT = datetime(2013, 5, 1, tzinfo=UTC)
ROWS = 250


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fastest is no test's question."""
    monkeypatch.setattr(calibration, "BUDGET_SECONDS", 0.02)


@pytest.fixture
def ws(settings: Settings, use_case: UseCase, db: Database, promote: Callable[..., Any]) -> Workspace:
    """The use case `late` whose champion is sigmoid(delay - far)."""
    promote()
    return Workspace(use_case, settings, open_lake(settings, use_case.name), db)


def trips(rows: int = ROWS) -> pl.DataFrame:
    """Rows with their key, a time, and both features given."""
    number = pl.int_range(0, rows, eager=True).alias("number").to_frame()
    at = pl.lit(AT).cast(pl.Datetime("us", "UTC")) - pl.col("number") * timedelta(minutes=1)
    return number.select(
        pl.lit("UA").alias("carrier"),
        pl.format("T{}", "number").alias("trip"),
        at.alias("event_time"),
        (pl.col("number") / rows).alias("delay"),
        (pl.col("number") % 7 / 7).alias("far"),
        pl.lit("beside").alias("other"),
    )


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Those rows as a Parquet file."""
    path = tmp_path / "in" / "rows.parquet"
    path.parent.mkdir()
    trips().write_parquet(path)
    return path


def asked(source: object, output: object, **more: Any) -> JobSpec:
    """A job in chunks of 60 rows that logs nothing."""
    return JobSpec(str(CASE), str(source), str(output), **{"chunk_rows": 60, "log": False, **more})


def logistic(rows: pl.DataFrame) -> pl.Series:
    """What the model gives the rows, by trip."""
    odds = 1 / (1 + (pl.col("far").fill_null(0).fill_nan(0) - pl.col("delay").fill_null(0).fill_nan(0)).exp())
    return rows.sort("trip").select(odds.alias("score")).to_series()


def scores(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder).sort("trip")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def with_database(ws: Workspace, tmp_path: Path) -> Workspace:
    """The platform with a SQLite database as the place `db`."""
    settings = ws.settings.model_copy(update={"places": {"db": f"sqlite:///{tmp_path / 'scores.db'}"}})
    return Workspace(ws.use_case, settings, ws.lake, ws.db)
