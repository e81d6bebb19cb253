"""Monitoring: false alarms and what is found, the pass over a week of flights, a million rows, a million labels.

The flights are the use case's own: ingested until 8 April 2013, a gradient-boosting champion trained on the first
quarter, the first week of April scored and watched; windows without change are March drawn again. `--quick` draws a
tenth of the windows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.figures import Figure, report, typical
from benchmarks.monitoring_alarms import alarms, alarms_of_nothing, covered, found_of_shifted
from benchmarks.monitoring_scale import in_own_process
from millrace.settings import quiet_vendors
from pipelines.workspace import Workspace

START, END = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 4, 8, tzinfo=UTC)
PERIOD = datetime(2013, 3, 1, tzinfo=UTC)
SIZES = (500, 5_000, 100_000)
SLICES = ("carrier", "origin")


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the windows")
    windows = 40 if parser.parse_args().quick else 400
    quiet_vendors()
    figures = [*label_join(), *million_rows()]
    with tempfile.TemporaryDirectory() as folder:
        passes, period = flights(Path(folder))
        figures += passes
        for n in SIZES:
            every = f"windows of {n:,} unchanged flights"
            raised = alarms(period, n, windows, Path(folder))
            figures.append(Figure(f"alarms in {windows} {every}, {period.width} columns", raised, "", windows / 20))
        for n in SIZES[1:]:
            raised = alarms(period, n, windows // 4, Path(folder), slices=SLICES)
            told = f"  … within slices, in {windows // 4} windows of {n:,}"
            figures.append(Figure(told, raised, "", windows / 4 / 20))
    report("monitoring", figures + power(windows))


def power(windows: int) -> list[Figure]:
    """What is found, what is not worth finding, and how often the estimate's band holds."""
    found = 100 * found_of_shifted(windows // 4, 500)
    rest = [
        Figure(f"alarms in {windows // 10} windows of 100,000 rows, all shifted by 0.02 σ", nothing, "", 0)
        for nothing in (alarms_of_nothing(windows // 10, 100_000, 5_000),)
    ]
    whole = alarms_of_nothing(windows // 40, 100_000, 100_000)
    return [
        Figure("10 of 50 columns shifted by 1 σ, found in windows of 500", found, "%", 99, ">="),
        *rest,
        Figure(f"  … in {windows // 40}, every row looked at", whole, "", 0),
        Figure("realised log loss within the estimate's 95 % band", 100 * covered(windows // 2), "%", 90, ">="),
    ]


def flights(folder: Path) -> tuple[list[Figure], pl.DataFrame]:
    """The monitor pass over a week, with everything, and the scored rows of March to draw windows from."""
    from millrace.registry import champion
    from pipelines import data, models
    from pipelines.scoring import score, score_with, with_features
    from pipelines.watching import watch
    from pipelines.workspace import open_workspace
    from training.options import TrainOptions

    with open_workspace("flight_delay", folder) as opened:
        one = tuple(candidate for candidate in opened.use_case.candidates if candidate.name == "hist_gbm")
        ws = replace(opened, use_case=replace(opened.use_case, candidates=one, baseline=None))
        data.ingest(ws, as_of=END)
        data.materialize(ws, as_of=END)
        free = TrainOptions(budget={"p99_ms": 1_000.0})  # what is measured here is not the model's latency
        models.train_and_gate(ws, as_of=START, why="The benchmark's.", options=free)
        rows = score(ws, start=START, end=END, as_of=END).rows
        started = time.perf_counter()
        watch(ws, start=START, end=END, as_of=END, report=True)
        first = time.perf_counter() - started
        took = typical(lambda: watch(ws, start=START, end=END, as_of=END, report=True), repeat=3)
        page = max((folder / "reports").glob("*.html"), key=lambda path: path.stat().st_size).stat().st_size / 1e6
        version = champion(ws.db, "flight_delay").version
        period = score_with(ws, with_features(ws, start=PERIOD, end=START, as_of=START), version)
        columns = [*_inputs(ws, version), *SLICES, "score"]
    return [
        Figure(f"monitor pass of {rows:,} flights: features, slices, decision, report", took, "s", 10),
        Figure("  … the first of a process, with Evidently's import", first, "s"),
        Figure("  … the report's page", page, "MB", 5),
    ], period.select(list(dict.fromkeys(columns)))


def _inputs(ws: Workspace, version: int) -> tuple[str, ...]:
    from pipelines.scoring import bundle_of

    return bundle_of(ws, version).contract.names


def million_rows() -> list[Figure]:
    """The decision over a million rows, and over a tenth of them: what a row costs must not grow with their number."""
    tenth, whole = in_own_process(100_000), in_own_process(1_000_000)
    return [
        Figure("decision over 1,000,000 rows × 50 columns", whole["seconds"], "s", 30),
        Figure("  … peak memory of the process, the window's frame in it", whole["gb"], "GB", 1.5),
        Figure("  … over 100,000 rows", tenth["seconds"], "s"),
        Figure("  … times a tenth of the rows (10: linear)", whole["seconds"] / tenth["seconds"], "×", 12),
    ]


def label_join() -> list[Figure]:
    """A million predictions met by their labels: one of ten is late, one of ten is said twice, one of twenty corrected
    and one of fifty names a prediction that there is not."""
    from monitoring.performance import join_labels

    rows, random = 1_000_000, np.random.default_rng(0)
    key = pl.int_range(rows, eager=True).cast(pl.String).alias("row_key")
    at = pl.Series("event_time", np.datetime64("2013-04-01", "us") + random.integers(0, 7 * 86_400, rows) * 1_000_000)
    instants = at.dt.replace_time_zone("UTC")
    predictions = pl.DataFrame([key, instants, pl.Series("score", random.random(rows))])
    late = pl.Series(np.where(random.random(rows) < 0.1, 30 * 24, 6)) * timedelta(hours=1)
    labels = pl.DataFrame([key, pl.Series("label", random.integers(0, 2, rows), dtype=pl.Int8), (instants + late)])
    labels = labels.rename({"event_time": "label_known_at"})
    again = labels.sample(rows // 10, seed=1)
    turned = (1 - pl.col("label")).alias("label"), pl.col("label_known_at") + timedelta(days=1)
    other = labels.sample(rows // 20, seed=2).with_columns(turned)
    stray = labels.sample(rows // 50, seed=3).with_columns(pl.concat_str(pl.lit("x"), "row_key").alias("row_key"))
    said = pl.concat([labels, again, other, stray]).sample(fraction=1.0, shuffle=True, seed=4)
    as_of = END + timedelta(days=2)
    took = typical(lambda: join_labels(predictions, said, as_of=as_of), repeat=3)
    return [Figure(f"label join of 1,000,000 predictions and {said.height:,} labels, late and twice", took, "s", 10)]


if __name__ == "__main__":
    main()
