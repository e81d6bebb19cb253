import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.errors import NoDataError
from millrace.usecase import Monitor
from monitoring.arrays import without_arrays
from monitoring.drift import SCORE, drift
from monitoring.report import MAX_BYTES, Shelf, write_report

Window = Callable[..., pl.DataFrame]


def test_the_report_s_figures_are_those_of_the_decision(window: Window, tmp_path: Path) -> None:
    """On a page and in JSON, from the same sample with the same tests."""
    frames = window(3_000, seed=0), window(3_000, seed=1, shift=0.5, shifted=1)
    monitor = Monitor(sample=1_000)
    found = drift(*frames, monitor, seed=5)
    written = write_report(*frames, found, tmp_path / "reports", name="w1", monitor=monitor, seed=5)
    figures = {m["config"]["column"]: m["value"] for m in json.loads(written.json.read_text())["metrics"]}
    assert figures == pytest.approx({column.name: column.p_value for column in found.columns})
    assert written.columns[:2] == (SCORE, "n0")
    assert written.size == written.html.stat().st_size <= MAX_BYTES
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["w1.html", "w1.json"]


def test_a_column_that_could_not_be_compared_is_left_out(window: Window, tmp_path: Path) -> None:
    frames = window(600, seed=0), window(600, seed=1).drop("n0").with_columns(pl.lit(None).alias("t0"))
    found = drift(*frames, Monitor())
    written = write_report(*frames, found, tmp_path, name="w", monitor=Monitor())
    assert not {"n0", "t0"} & set(written.columns)


def test_an_array_is_drawn_by_its_mean_and_spread(window: Window, tmp_path: Path) -> None:
    image = pl.Series([[0.1 * (i % 7), 0.2 * (i % 11)] for i in range(600)])
    frames = [window(600, seed=seed, numbers=0, texts=0).with_columns(image.alias("image")) for seed in (0, 1)]
    found = drift(*map(without_arrays, frames), Monitor())
    written = write_report(*frames, found, tmp_path, name="w", monitor=Monitor())
    assert set(written.columns) == {SCORE, "image mean", "image spread"}


def test_a_window_that_could_not_be_compared_has_no_report(window: Window, tmp_path: Path) -> None:
    frames = window(600, seed=0), window(600, seed=1).clear()
    with pytest.raises(NoDataError, match="the window is empty"):
        write_report(*frames, drift(*frames, Monitor()), tmp_path / "r", name="w", monitor=Monitor())
    assert not (tmp_path / "r").exists()


def test_the_report_is_a_run_of_an_evidently_workspace_and_a_second_pass_replaces_it(
    window: Window, tmp_path: Path
) -> None:
    from evidently.ui.workspace import Workspace

    frames = window(600, seed=0), window(600, seed=1)
    found, shelf = drift(*frames, Monitor()), Shelf(tmp_path / "evidently", "rides")
    told: dict[str, Any] = {"monitor": Monitor(), "shelf": shelf, "at": datetime(2013, 4, 8, tzinfo=UTC)}
    first = write_report(*frames, found, tmp_path / "r", name="w1", **told)
    again = write_report(*frames, found, tmp_path / "r", name="w1", **told)
    other = write_report(*frames, found, tmp_path / "r", name="w2", **told)
    workspace = Workspace.create(str(shelf.folder))
    (project,) = workspace.search_project("rides")
    assert {str(run) for run in workspace.list_runs(project.id)} == {again.run, other.run}
    assert first.run != again.run
    run = workspace.get_run(project.id, again.run)
    assert run is not None
    assert (run.name, run.timestamp) == ("w1", datetime(2013, 4, 8, tzinfo=UTC))


def test_the_report_s_rows_are_the_decision_s_in_whatever_order_they_come(
    window: Window, logged: Window, tmp_path: Path
) -> None:
    """Of a row predicted twice the last prediction is drawn, as it is the one that was compared."""
    reference, rows = window(2_000, seed=0), logged(window(2_000, seed=1))
    early = rows.with_columns(pl.lit(0.99).alias("score"), pl.col("served_at") - timedelta(hours=1))
    found = drift(reference, rows, Monitor(sample=700), seed=2)
    both = pl.concat([rows, early]).sample(fraction=1.0, shuffle=True, seed=3)
    written = write_report(reference, both, found, tmp_path, name="w", monitor=Monitor(sample=700), seed=2)
    figures = {m["config"]["column"]: m["value"] for m in json.loads(written.json.read_text())["metrics"]}
    assert figures == pytest.approx({column.name: column.p_value for column in found.columns})
