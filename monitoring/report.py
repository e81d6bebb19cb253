"""Evidently's own report of one window, as a page to look at and as JSON, on demand.

It draws the columns that matter most with the very tests and the very sample that the drift decision used, so its
figures are the decision's. Drawing costs about 60 ms a column and 30 kB of page, on top of a fixed 3.7 MB.
This module knows nothing of labels or decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from millrace.errors import NoDataError
from millrace.usecase import Monitor
from monitoring.arrays import without_arrays
from monitoring.drift import SCORE, ColumnDrift, Drift, sample
from monitoring.two_samples import quiet, register_tests

MAX_COLUMNS = 36
"""How many columns are drawn at most; 35 give a page of 4.7 MB."""
MAX_BYTES = 5_000_000
"""A page above this is drawn again with half the columns (a column of thousands of categories is large)."""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """The two files of a report, the columns drawn and the page's size in bytes."""

    html: Path
    json: Path
    columns: tuple[str, ...]
    size: int


def write_report(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    found: Drift,
    folder: Path,
    *,
    name: str,
    monitor: Monitor,
    seed: int = 0,
) -> WindowReport:
    """Write `<name>.html` and `<name>.json` into the folder, whole or not at all, replacing those of an earlier pass.

    `found` is what `drift` found in the same frames with the same seed. Drawn are the score, then the drifted columns,
    then the others by effect. Raises `NoDataError` when no column could be compared.
    """
    chosen = _most_telling(found)
    if not chosen:
        raise NoDataError(
            "There is nothing to report on: no column of the window could be compared with the reference.",
            looked=found.note or "; ".join(f"{column.name}: {column.note}" for column in found.columns[:3]),
        )
    frames = [without_arrays(sample(frame, monitor.sample, seed)) for frame in (reference, current)]
    page, figures = _render(frames, chosen, monitor)
    while len(page) > MAX_BYTES and len(chosen) > 1:
        chosen = chosen[: len(chosen) // 2]
        page, figures = _render(frames, chosen, monitor)
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}.html": page, folder / f"{name}.json": figures}
    for path, content in files.items():
        path.with_name(path.name + ".aside").write_bytes(content)
    for path in files:
        path.with_name(path.name + ".aside").replace(path)
    html, json = files
    return WindowReport(html, json, tuple(column.name for column in chosen), len(page))


def _most_telling(found: Drift) -> list[ColumnDrift]:
    compared = [column for column in found.columns if column.effect is not None]
    compared.sort(key=lambda column: (column.name != SCORE, not column.drifted, -(column.effect or 0.0), column.name))
    return compared[:MAX_COLUMNS]


def _render(frames: Sequence[pl.DataFrame], columns: Sequence[ColumnDrift], monitor: Monitor) -> tuple[bytes, bytes]:
    """The page and the figures of the columns, as Evidently writes them."""
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
        snapshot = Report(metrics, include_tests=False).run(current, reference)
        return snapshot.get_html_str(as_iframe=False).encode(), snapshot.json().encode()


def _pandas(frame: pl.DataFrame, kinds: dict[str, str]) -> Any:
    dtypes = {"numeric": pl.Float64, "categorical": pl.String}
    return frame.select(pl.col(name).cast(dtypes[kind]) for name, kind in kinds.items()).to_pandas()
