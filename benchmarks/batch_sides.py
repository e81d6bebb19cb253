"""The sides that `benchmarks.batch` compares, each in a process of its own so that its memory is its own.

`python -m benchmarks.batch_sides SIDE ROWS.parquet OUT` prints one JSON object: rows, seconds, and peak memory in MB.
Every side reads the same Parquet files, runs the same signed model, and writes its scores as Parquet.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.serving_flight import HOME, USE_CASE
from millrace.settings import quiet_vendors
from pipelines.workspace import Workspace, open_workspace

AT = datetime(2013, 5, 1, tzinfo=UTC)
CHUNK_ROWS = 131_072


def ours(ws: Workspace, rows: Path, out: Path, **more: Any) -> tuple[int, float]:
    """A job, from asking to done, its calibration apart: that is done once a version and machine."""
    from pipelines.score_jobs import score_job
    from serving.batch.spec import JobSpec

    began = time.perf_counter()
    done = score_job(ws, JobSpec(USE_CASE, str(rows), str(out), **more), at=AT, again=True)
    return done.rows, time.perf_counter() - began


def limit(ws: Workspace, rows: Path, out: Path) -> tuple[int, float]:
    """Read, predict and write with nothing between, with as many chunks at once and the calls that the job chose."""
    from millrace.bundle import open_bundle
    from millrace.engine import open_engine
    from millrace.keys import public_key
    from serving.batch.plan import Choice
    from serving.batch.score import engine_scores

    job = ws.db.score_jobs.list(USE_CASE, state="done", limit=1)[0]
    choice = Choice.from_dict(job.engine)
    bundle = open_bundle(Path(str(job.plan["bundle"])), public_key=public_key(ws.settings))
    contract, engine = bundle.contract, open_engine(bundle, threads=choice.threads)
    out.mkdir(parents=True, exist_ok=True)

    def one(part: tuple[int, Path, int]) -> int:
        number, path, first = part
        frame = pl.scan_parquet(path).slice(first, CHUNK_ROWS).select("flight_id", *contract.names).collect()
        scores = engine_scores(contract, engine, frame, choice.batch_rows)
        frame.select("flight_id", pl.Series("score", scores)).write_parquet(out / f"{number}.parquet")
        return frame.height

    began = time.perf_counter()
    with ThreadPoolExecutor(choice.workers) as pool:
        return sum(pool.map(one, parts(rows))), time.perf_counter() - began


def parts(rows: Path) -> Iterator[tuple[int, Path, int]]:
    """(number, file, first row) of each chunk."""
    number = 0
    for path in sorted(rows.glob("*.parquet")):
        for first in range(0, pl.scan_parquet(path).select(pl.len()).collect().item(), CHUNK_ROWS):
            yield number, path, first
            number += 1


def pyfunc(ws: Workspace, rows: Path, out: Path) -> tuple[int, float]:
    """`mlflow.pyfunc.load_model(…).predict` over chunks as pandas frames."""
    import mlflow
    import pyarrow.parquet as pq

    mlflow.set_tracking_uri(ws.settings.mlflow)
    model = mlflow.pyfunc.load_model(f"models:/{USE_CASE}@champion")
    out.mkdir(parents=True, exist_ok=True)
    names = [column.name for column in model.metadata.signature.inputs]
    done, began = 0, time.perf_counter()
    for path in sorted(rows.glob("*.parquet")):
        for number, batch in enumerate(pq.ParquetFile(path).iter_batches(CHUNK_ROWS, columns=["flight_id", *names])):
            frame = batch.to_pandas()
            scored = frame[["flight_id"]].join(model.predict(frame[names]))
            scored.to_parquet(out / f"{path.stem}-{number}.parquet")
            done += len(frame)
    return done, time.perf_counter() - began


SIDES: dict[str, Callable[[Workspace, Path, Path], tuple[int, float]]] = {
    "given": lambda ws, rows, out: ours(ws, rows, out, log=False),
    "logged": lambda ws, rows, out: ours(ws, rows, out, log=True),
    "joined": lambda ws, rows, out: ours(ws, rows, out, log=False, join="point-in-time"),
    "limit": limit,
    "pyfunc": pyfunc,
}


def main(side: str, rows: str, out: str) -> None:
    """Run one side."""
    quiet_vendors()
    with open_workspace(USE_CASE, HOME) as ws:
        done, seconds = SIDES[side](ws, Path(rows), Path(out))
    status = Path("/proc/self/status").read_text()  # not ru_maxrss, which a process inherits from who started it
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"rows": done, "seconds": seconds, "mb": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
