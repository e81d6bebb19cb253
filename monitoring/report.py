"""Evidently's own report of one window, as a page, as JSON, and in a workspace that `evidently ui` shows.

It draws the columns that matter most with the very tests and the very sample that the drift decision used, so its
figures are the decision's. Drawing costs about 60 ms a column and 30 kB of page, on top of a fixed 3.7 MB; its run in
the workspace, which Evidently writes as JSON of its own, nearly as much again.
This module knows nothing of labels or decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl

from millrace.errors import NoDataError
from millrace.usecase import Monitor
from monitoring.arrays import without_arrays
from monitoring.drift import SCORE, ColumnDrift, Drift
from monitoring.rows import last_of_each_row, sample
from monitoring.two_samples import quiet, register_tests

MAX_COLUMNS = 24
"""How many columns are drawn at most, the most telling ones: all 36 of a window of flights gave a page of 4.9 MB and
took longer than all the rest of the pass. Every column's figures are in the pass's own drift."""
MAX_BYTES = 5_000_000
"""A page above this is drawn again with half the columns (a column of thousands of categories is large)."""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """The two files of a report, the columns drawn, the page's size in bytes, and its run's id in the workspace."""

    html: Path
    json: Path
    columns: tuple[str, ...]
    size: int
    run: str = ""


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder that is an Evidently workspace (`evidently ui --workspace FOLDER`), and the project of the reports."""

    folder: Path
    project: str


def write_report(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    found: Drift,
    folder: Path,
    *,
    name: str,
    monitor: Monitor,
    at: datetime | None = None,
    shelf: Shelf | None = None,
    seed: int = 0,
) -> WindowReport:
    """Write `<name>.html` and `<name>.json` into the folder, whole or not at all, replacing those of an earlier pass.

    `found` is what `drift` found in the same frames with the same seed. Drawn are the score, then the drifted columns,
    then the others by effect. With a `shelf` the report is also a run of its project, of the instant `at` (the window's
    end), in the place of an earlier pass's. Raises `NoDataError` when no column could be compared.
    """
    chosen = _most_telling(found)
    if not chosen:
        raise NoDataError(
            "There is nothing to report on: no column of the window could be compared with the reference.",
            looked=found.note or "; ".join(f"{column.name}: {column.note}" for column in found.columns[:3]),
        )
    last = last_of_each_row(current)[0]
    frames = [without_arrays(sample(frame, monitor.sample, seed)) for frame in (reference, last)]
    snapshot, page = _render(frames, chosen, monitor, name, at)
    while len(page) > MAX_BYTES and len(chosen) > 1:
        chosen = chosen[: len(chosen) // 2]
        snapshot, page = _render(frames, chosen, monitor, name, at)
    files = {folder / f"{name}.html": page, folder / f"{name}.json": snapshot.json().encode()}
    _write_aside(files)
    run = _shelve(snapshot, shelf, folder / f"{name}.run") if shelf else ""
    html, json = files
    return WindowReport(html, json, tuple(column.name for column in chosen), len(page), run)


def _write_aside(files: Mapping[Path, bytes]) -> None:
    """All files under other names first, then each in its place."""
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".aside").write_bytes(content)
    for path in files:
        path.with_name(path.name + ".aside").replace(path)


def _shelve(snapshot: Any, shelf: Shelf, note: Path) -> str:
    """Add the snapshot to the workspace's project, made when it is not there; the one that `note` names goes."""
    with quiet():
        from evidently.ui.workspace import Workspace

        workspace = Workspace.create(str(shelf.folder))
        known = workspace.search_project(shelf.project)
        project = known[0] if known else workspace.create_project(shelf.project)
        run = str(workspace.add_run(project.id, snapshot).id)
        if note.exists() and UUID(earlier := note.read_text()) in workspace.list_runs(project.id):
            workspace.delete_run(project.id, earlier)
    _write_aside({note: run.encode()})
    return run


def _most_telling(found: Drift) -> list[ColumnDrift]:
    compared = [column for column in found.columns if column.effect is not None]
    compared.sort(key=lambda column: (column.name != SCORE, not column.drifted, -(column.effect or 0.0), column.name))
    return compared[:MAX_COLUMNS]


def _render(
    frames: Sequence[pl.DataFrame], columns: Sequence[ColumnDrift], monitor: Monitor, name: str, at: datetime | None
) -> tuple[Any, bytes]:
    """Evidently's snapshot of the columns, and its page."""
    register_tests()
    with quiet():
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        kinds = {column.name: column.kind for column in columns}
        definition = DataDefinition(
            numerical_columns=[name for name, kind in kinds.items() if kind == "numeric"],
            categorical_columns=[name for name, kind in kinds.items() if kind == "categorical"],
        )
        reference, current = (
            Dataset.from_pandas(_pandas(frame, kinds), data_definition=definition) for frame in frames
        )
        metrics = [ValueDrift(column=c.name, method=c.test, threshold=monitor.alpha) for c in columns]
        snapshot = Report(metrics, include_tests=False).run(current, reference, timestamp=at, name=name)
        return snapshot, snapshot.get_html_str(as_iframe=False).encode()


def _pandas(frame: pl.DataFrame, kinds: dict[str, str]) -> Any:
    dtypes = {"numeric": pl.Float64, "categorical": pl.String}
    return frame.select(pl.col(name).cast(dtypes[kind]) for name, kind in kinds.items()).to_pandas()
