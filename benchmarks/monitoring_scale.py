"""One monitoring pass over so many rows of 50 columns, in a process of its own so that its peak memory is its own.

`python -m benchmarks.monitoring_scale ROWS` prints the seconds of the pass and the process's peak memory in GB, both
without the imports' seconds; the memory has the interpreter, Evidently and the window's own frame in it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from millrace import Candidate, Label, Population, Source, UseCase
from monitoring.two_samples import register_tests
from monitoring.window import Champion, Window, watch

START = datetime(2013, 4, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
COLUMNS = 50
TEXTS = 10


def _never(*_: Any) -> Any:
    raise AssertionError("monitoring calls no function of a use case")


SOURCE = Source("rides", read=_never, schema=_never, key=("ride",))
RIDES = UseCase(
    name="rides",
    question="Will it be late?",
    sources=(SOURCE,),
    population=Population(SOURCE),
    label=Label(SOURCE, "late", arrives_after=timedelta(hours=6)),
    feature_repo=_never,
    candidates=(Candidate("model", _never),),
    slices=("t0",),
)


def wide(rows: int, seed: int) -> pl.DataFrame:
    """`COLUMNS` columns, of which `TEXTS` are categories and the others normal, a score and a label drawn with it."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"n{i}": random.normal(size=rows) for i in range(COLUMNS - TEXTS)}
    names = pl.Series([f"v{i}" for i in range(12)], dtype=pl.String)
    columns |= {f"t{i}": names.gather(random.integers(0, 12, rows)) for i in range(TEXTS)}
    score = 1 / (1 + np.exp(-random.normal(-1.2, 0.8, rows)))
    return pl.DataFrame(columns | {"score": score, "label": (random.random(rows) < score).astype(np.int8)})


def logged(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The frame as a week of the prediction log, and its labels, known six hours after their rows."""
    at = pl.lit(START) + pl.duration(
        microseconds=pl.int_range(pl.len()) * (WEEK // timedelta(microseconds=1) // frame.height)
    )
    key = pl.int_range(pl.len()).cast(pl.String)
    rows = frame.with_columns(
        at.alias("event_time"),
        at.alias("served_at"),
        key.alias("row_key"),
        pl.concat_str(pl.lit("p"), key).alias("prediction_id"),
        pl.lit(1, dtype=pl.Int64).alias("version"),
        pl.lit("online").alias("channel"),
        pl.lit("").alias("flags"),
    )
    labels = rows.select("row_key", "label", (pl.col("event_time") + timedelta(hours=6)).alias("label_known_at"))
    return rows.drop("label"), labels


def main(rows: int) -> None:
    """One pass, timed."""
    register_tests()
    watch_once(1_000)
    predictions, labels = logged(wide(rows, 1))
    reference = wide(5_000, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    window = Window(START, START + WEEK, START + 2 * WEEK)
    found = watch(RIDES, window, Champion(1, START), reference=reference, predictions=predictions, labels=labels)
    took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {"seconds": took, "gb": peak / 1024**2, "before_gb": before / 1024**2, "action": found.decision.action}
    print(json.dumps(told))


def watch_once(rows: int) -> None:
    """A small pass, so that what is done once a process is not counted."""
    predictions, labels = logged(wide(rows, 2))
    window = Window(START, START + WEEK, START + 2 * WEEK)
    small = replace(RIDES, slices=())
    watch(small, window, Champion(1, START), reference=wide(rows, 3), predictions=predictions, labels=labels)


def in_own_process(rows: int) -> dict[str, float]:
    """What `main` prints of so many rows."""
    run = [sys.executable, "-m", "benchmarks.monitoring_scale", str(rows)]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
