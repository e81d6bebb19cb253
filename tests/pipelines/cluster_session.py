"""`python cluster_session.py FOLDER NETWORK_CASES`: what `test_cluster.py` asks about, done on a Ray cluster of two
nodes, one core each, on loopback; it writes `found.json`. A process of its own, because a cluster's address and
telemetry are read when Ray is imported, and its libraries' threads shall not live among other tests'.

Ray's head asks the cloud's metadata service who it is and reports even that reporting is off (2.60): a file of the
autoscaler's in HOME spares the first, an address that nobody listens on the second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from features.asof import FeatureRows, join_asof
from features.partitioned import PartitionedJoin, opened
from features.training_set import population_rows
from millrace.cluster import joined_cluster
from millrace.registry import experiment_id, mlflow_client
from millrace.settings import quiet_vendors
from pipelines import data, models
from pipelines.cluster import on_cluster
from pipelines.launch import Job
from pipelines.score_jobs import score_job
from pipelines.workspace import Workspace, open_workspace
from serving.batch.spec import JobSpec
from training.hardware import Hardware
from training.options import TrainOptions

START = datetime(2024, 1, 20, tzinfo=UTC)
CASES = Path(__file__).parent / "cases"
_STORE_BYTES = 150_000_000


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Two nodes and their address; every process of theirs ends with the body."""
    (folder / "ray_bootstrap_config.yaml").write_text("{}")
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # a node's address is loopback then, not the machine's
    os.environ.update(loopback, HOME=str(folder), RAY_USAGE_STATS_REPORT_URL="http://127.0.0.1:9/")
    quiet_vendors()
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "node_ip_address": "127.0.0.1"}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(**node)
    os.environ["RAY_ADDRESS"] = nodes.address
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


def random_times(chance: np.random.Generator, count: int) -> pl.Series:
    """Instants of ten days in steps of an hour, so that many are equal."""
    return START + pl.Series(chance.integers(0, 240, count) * 3_600_000_000).cast(pl.Duration("us"))


def feature_table(chance: np.random.Generator, keys: dict[str, int], count: int) -> pl.DataFrame:
    """Rows with ties, duplicates, late knowledge, null features and null keys, in no order."""
    event = random_times(chance, count)
    late = pl.Series(chance.integers(0, 4, count) * 3_600_000_000).cast(pl.Duration("us"))
    columns = {
        key: [None if value == 0 else f"k{value}" for value in chance.integers(0, size, count)]
        for key, size in keys.items()
    }
    frame = pl.DataFrame(columns | {"event": event, "known": event + late, "value": np.arange(count)})
    frame = frame.with_columns(value=pl.when(pl.col("value") % 7 == 0).then(None).otherwise("value"))
    return pl.concat([frame, frame.head(count // 10)])


def the_join(folder: Path) -> dict[str, Any]:
    """The partitioned join beside the one of one machine, over two views of other entities and one of both."""
    chance = np.random.default_rng(0)
    views = []
    for number, (keys, ttl) in enumerate(
        [({"a": 20}, timedelta(hours=30)), ({"b": 300}, None), ({"a": 20, "b": 300}, timedelta(days=4))]
    ):
        feature_table(chance, keys, 4_000).write_parquet(folder / f"{number}.parquet")
        named = {key: f"my_{key}" for key in keys}
        rows = pl.scan_parquet(folder / f"{number}.parquet")
        views.append(FeatureRows(rows, named, {"value": f"value_{number}"}, "event", "known", ttl))
    asked = feature_table(chance, {"a": 25, "b": 330}, 3_000).rename({"a": "my_a", "b": "my_b"}).drop("known")
    asked = asked.with_columns(event=pl.when(pl.col("value") % 50 == 1).then(None).otherwise("event"))
    asked.write_parquet(folder / "rows.parquet")

    def read(block: int, columns: Any) -> pl.DataFrame:
        rows = pl.scan_parquet(folder / "rows.parquet").slice(block * 1_000, 1_000)
        return rows.select(columns or pl.all()).collect()

    found = {}
    for record in PartitionedJoin(read, "event", tuple(views), 3).blocks([0, 1, 2, 3, 4]).iter_rows():
        found[record["block"]] = opened(record["frame"])
    whole = join_asof(asked, "event", views)
    answered = {name: whole[name].count() for name in ("value_0", "value_1", "value_2")}
    parts = pl.concat([found[block] for block in sorted(found)])
    return {"equal": parts.equals(whole), "blocks": sorted(found), "answered": answered, "rows": whole.height}


def kill_an_actor() -> int:
    """SIGKILL one of the processes that score chunks; how many there were."""
    actors = [process for process in psutil.process_iter(["cmdline", "environ"]) if "ray::MapWorker" in _name(process)]
    mine = [process for process in actors if (process.info["environ"] or {}).get("HOME") == os.environ["HOME"]]
    if mine:
        mine[0].kill()
    return len(mine)


def _name(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())


class KillAtFirst:
    """A progress that ends an actor when the first chunk has come back."""

    def __init__(self) -> None:
        self.killed = 0

    def start(self, what: str, total: int = 1) -> None:
        pass

    def advance(self, note: str = "") -> None:
        if not self.killed:
            self.killed = kill_an_actor()

    def done(self, note: str = "", *, failed: bool = False) -> None:
        pass


def the_job(folder: Path) -> dict[str, Any]:
    """A job on the cluster that loses a process, beside the same on one machine."""
    os.environ["MILLRACE_USE_CASES"] = str(CASES)
    with open_workspace("taxi", folder / "taxi") as ws:
        data.ingest(ws, as_of=START)
        data.materialize(ws, as_of=START)
        models.train_and_gate(ws, as_of=START, why="The first one.")
        rows = population_rows(ws.use_case, ws.lake, since=START - timedelta(days=15), until=START, as_of=START)
        poisoned = rows.with_columns(hour=pl.when(pl.int_range(pl.len()) == 5).then(float("nan")).otherwise("hour"))
        poisoned.write_parquet(folder / "in.parquet")
        found: dict[str, Any] = {"rows": rows.height}
        for engine in ("local", "ray"):
            spec = JobSpec(
                "taxi",
                str(folder / "in.parquet"),
                str(folder / engine),
                chunk_rows=-(-rows.height // 12),
                engine=engine,
            )  # type: ignore[arg-type]  # mypy sees any text
            killer = KillAtFirst() if engine == "ray" else None
            print(f"{engine}: {rows.height} rows", file=sys.stderr, flush=True)
            found[engine] = _one_job(ws, spec, killer) | {"killed": killer.killed if killer else 0}
    return found


def _one_job(ws: Workspace, spec: JobSpec, killer: KillAtFirst | None) -> dict[str, Any]:
    done = score_job(ws, spec, at=START, progress=killer)
    scores = pl.read_parquet(spec.output).sort("trip")
    return {
        "state": done.state, "digest": done.digest, "rows": done.rows, "scored": done.scored,
        "rejected": done.rejected, "chunks": done.chunks, "join": done.join,
        "scores": scores["score"].to_list(), "logged": ws.lake.scan("predictions").collect().height,
    }  # fmt: skip


def the_training(folder: Path, cases: Path) -> dict[str, Any]:
    """A network fitted by two processes of the cluster, and what the first of them said."""
    os.environ["MILLRACE_USE_CASES"], os.environ["MILLRACE_HOME"] = str(cases), str(folder / "net")
    with open_workspace("taxi_net") as ws:
        data.ingest(ws, as_of=START)
    told: list[str] = []
    found = on_cluster(Job("taxi_net", START, TrainOptions(hardware=Hardware("cpu", 2))), told.append)
    with open_workspace("taxi_net") as ws:
        versions, client = len(ws.db.models("taxi_net")), mlflow_client(ws.settings)
        runs = client.search_runs([experiment_id(client, ws.settings, "taxi_net")])
        devices = [run.data.tags.get("millrace.device", "") for run in runs]
    candidates = [line["candidate"] for line in found["candidates"]]
    return {"candidates": candidates, "devices": devices, "told": told, "versions": versions}


def main(folder: Path, cases: Path) -> None:
    """All of it; what fails is told in its place."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "join": lambda: the_join(folder),
        "job": lambda: the_job(folder),
        "training": lambda: the_training(folder, cases),
    }
    chosen = sys.argv[3:] or list(parts)
    with cluster(folder), joined_cluster():
        found: dict[str, Any] = {}
        for name in chosen:
            began = time.monotonic()
            found[name] = parts[name]()
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    (folder / "found.json").write_text(json.dumps(found))  # not printed: Ray prints as well


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
