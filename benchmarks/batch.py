"""Batch scoring: a job beside the bare reading, predicting and writing, beside MLflow's pyfunc, and with the join.

The rows are three months of flights, repeated; the model is the one that `benchmarks.serving` trains. Every side is a
process of its own; the sides of a ratio run in turn, three times, and their medians are compared. `--quick` takes
400,000 rows instead of ten million, in which the job's start is a larger part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from benchmarks.figures import FOLDER, Figure, report
from benchmarks.serving_flight import HOME, USE_CASE, prepared
from millrace.settings import quiet_vendors

HERE = FOLDER / "batch"
FILE_ROWS = 1_000_000
QUICK_ROWS, ROWS, RATIO_ROWS = 400_000, 10_000_000, 1_000_000
FIRST, LAST = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC)


def flights() -> Path:
    """The flights of three months with keys, moments of prediction and joined features, made once."""
    path = HERE / "flights.parquet"
    if not path.exists():
        from pipelines.scoring import with_features
        from pipelines.workspace import open_workspace

        with open_workspace(USE_CASE, HOME) as ws:
            frame = with_features(ws, start=FIRST, end=LAST, as_of=LAST)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    return path


def grown(rows: int) -> Path:
    """A folder of files with so many rows: the flights again and again, each time under other ids."""
    folder = HERE / f"rows-{rows}"
    if folder.exists():
        return folder
    base, aside = pl.read_parquet(flights()), HERE / f".rows-{rows}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - first)
        times = -(-count // base.height)
        part = pl.concat(
            [
                base.with_columns(pl.format("{}-{}", "flight_id", pl.lit(f"{number}.{n}")).alias("flight_id"))
                for n in range(times)
            ]
        )
        part.head(count).write_parquet(aside / f"{number:03}.parquet", row_group_size=131_072)
    aside.rename(folder)
    return folder


def run(side: str, rows: Path) -> dict[str, Any]:
    """One side over the rows in a process of its own: rows, seconds, and MB at its peak."""
    out = HERE / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.batch_sides", side, str(rows.absolute()), str(out.absolute())]
    environment = os.environ | {"MILLRACE_HOME": str(HOME.absolute())}  # where MLflow's side finds the public key
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    shutil.rmtree(out, ignore_errors=True)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    print(f"{side}: {found['rows']:,} rows in {found['seconds']:.1f} s, {found['mb']:.0f} MB", file=sys.stderr)
    return found


def rates(sides: tuple[str, ...], rows: Path, repeat: int) -> dict[str, float]:
    """The median rows a second of each side; the sides take turns."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeat):
        for side in sides:
            done = run(side, rows)
            found[side].append(done["rows"] / done["seconds"])
    return {side: median(values) for side, values in found.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="400,000 rows, each side once")
    given = parser.parse_args()
    quiet_vendors()
    prepared()
    few, many = (QUICK_ROWS, QUICK_ROWS) if given.quick else (RATIO_ROWS, ROWS)
    rows, repeat = grown(few), 1 if given.quick else 3
    run("given", rows)  # calibrates, once for this version and machine
    rate = rates(("given", "limit", "pyfunc", "joined", "logged"), rows, repeat)
    large = run("given", grown(many))
    report(
        "batch",
        [
            Figure("features given, Parquet to Parquet (peer: bare)", rate["given"], "rows/s", peer=rate["limit"]),
            Figure("  … share of reading, model and writing alone", rate["given"] / rate["limit"] * 100, "%", 60, ">="),
            Figure("  … times MLflow's pyfunc over pandas", rate["given"] / rate["pyfunc"], "×", 5, ">="),
            Figure("with the point-in-time join", rate["joined"], "rows/s", 100_000, ">="),
            Figure("  … share of the same bare limit", rate["joined"] / rate["limit"] * 100, "%"),
            Figure("with every row in the prediction log", rate["logged"], "rows/s", peer=rate["given"]),
            Figure(f"resident memory at {large['rows']:,} rows", large["mb"], "MB", 1_000),
            Figure(f"  … rows a second of {large['rows']:,}", large["rows"] / large["seconds"], "rows/s"),
        ],
    )


if __name__ == "__main__":
    main()
