"""A batch job of a model of three classes that takes an array."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from millrace.db import Database
from millrace.lake import open_lake
from millrace.prediction_log import TABLE as PREDICTIONS
from millrace.settings import Settings
from pipelines.score_jobs import score_job
from pipelines.workspace import Workspace

from ..conftest import late_use_case
from ..test_classes import CLASSES, champion, softmax  # noqa: F401  # one of them is a fixture
from .conftest import AT, asked


@pytest.mark.usefixtures("champion")
def test_every_class_has_its_probability_and_the_most_probable_one_is_predicted(
    settings: Settings,
    db: Database,
    tmp_path: Path,
) -> None:
    ws = Workspace(late_use_case(), settings, open_lake(settings, "late"), db)
    spectra, organic = [[0.5, 2.0, 0.0], [3.0, 2.0, 0.0], [1.0]], [True, None, False]
    rows = pl.DataFrame({"carrier": "UA", "trip": ["a", "b", "c"], "spectrum": spectra, "organic": organic})
    rows.write_parquet(tmp_path / "rows.parquet")
    done = score_job(ws, asked(tmp_path / "rows.parquet", tmp_path / "out", log=True), at=AT)
    assert (done.scored, done.reasons) == (2, {"spectrum must be an array of 3 numbers": 1})
    found = pl.read_parquet(tmp_path / "out").sort("trip")
    assert found["predicted"].to_list() == ["pear", "apple"]
    probabilities = found.select(f"score_{name}" for name in CLASSES).rows()
    assert probabilities == [pytest.approx(softmax(*row), abs=1e-6) for row in spectra[:2]]
    assert found["score"].to_list() == [max(row) for row in probabilities]
    assert sorted(ws.lake.scan(PREDICTIONS).collect()["predicted"]) == ["apple", "pear"]
