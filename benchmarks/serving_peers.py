"""The peers of `benchmarks.serving`, each in an environment of its own under `.millrace/bench/peers/`.

All run the same ONNX model on one worker with adaptive batching, where they have it, and access logs off. Each is asked
in two forms: with the same row as ours, named values that it encodes itself, and, easiest for it, with the encoded
matrix, which spares it what ours does. MLflow serves the registered model as it is, from our own environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import FOLDER
from benchmarks.serving_flight import USE_CASE, Case, Flight, compact, parts
from benchmarks.serving_servers import Server, free_port, running

ENVIRONMENTS = FOLDER / "peers"
CODE = Path(__file__).parent / "peers"
RUNTIME = "onnxruntime==1.31.1"
"""The version that serves ours."""


@dataclass(frozen=True)
class Start:
    """How a peer is started."""

    command: list[str]
    env: dict[str, str]
    cwd: Path | None = None


@dataclass(frozen=True)
class Form:
    """A way to ask a peer: `body` makes a request of some of the rows that `rows` chooses."""

    name: str
    path: str
    rows: Callable[[Flight], tuple[list[Any], list[float]]]
    body: Callable[[Flight, list[Any]], str]

    def case(self, flight: Flight, size: int) -> Case:
        """The flights' rows, so many a request."""
        rows, scores = self.rows(flight)
        bodies = [self.body(flight, part) for part in parts(rows, size)]
        return Case(self.path, bodies, parts(scores, size), PROBABILITY, size)


@dataclass(frozen=True)
class Peer:
    """A server to be compared with; ours must answer `factor` times as many requests of one row. Of `requirement`
    nothing is installed when it is empty; one that takes a second an answer is measured `longer` times as long."""

    name: str
    requirement: str
    factor: float
    start: Callable[[Peer, Flight, int], Start]
    forms: tuple[Form, ...]
    longer: float = 1.0

    @property
    def environment(self) -> Path:
        """Its virtual environment."""
        return (ENVIRONMENTS / self.name.lower()).absolute()

    def tool(self, name: str) -> str:
        """A program of its environment."""
        return str(self.environment / "bin" / name)


def start_mlserver(peer: Peer, flight: Flight, port: int) -> Start:
    """In-process inference, batches of at most 64 that wait 1 ms: faster here than 5 ms, than 16, than none."""
    folder = peer.environment / "model"
    folder.mkdir(exist_ok=True)
    server = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    model = {
        "name": "flight", "implementation": "mlserver_runtime.Flight", "parameters": {"uri": str(flight.model)},
        "max_batch_size": 64, "max_batch_time": 0.001,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return Start([peer.tool("mlserver"), "start", str(folder)], {"PYTHONPATH": str(CODE)})


def start_litserve(peer: Peer, flight: Flight, port: int) -> Start:
    """Batches of at most 64, one a connection, that wait at most 50 ms, its documentation's values."""
    return Start([peer.tool("python"), str(CODE / "litserve_app.py"), str(flight.model), str(port)], {})


def start_bentoml(peer: Peer, flight: Flight, port: int) -> Start:
    """One worker, its own adaptive batching."""
    command = [peer.tool("bentoml"), "serve", "bentoml_service:Flight", "--host", "127.0.0.1", "--port", str(port)]
    return Start(command, {"BENCH_MODEL": str(flight.model), "BENTOML_DO_NOT_TRACK": "True"}, CODE)


def start_mlflow(_peer: Peer, flight: Flight, port: int) -> Start:
    """The champion as it is registered."""
    tools = Path(sys.executable).parent
    command = [
        str(tools / "mlflow"), "models", "serve", "-m", f"models:/{USE_CASE}@champion", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    env = {
        "MILLRACE_HOME": str(flight.settings.home.absolute()),
        "MLFLOW_TRACKING_URI": flight.settings.mlflow,
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    return Start(command, env)


def as_they_are(flight: Flight) -> tuple[list[Any], list[float]]:
    """The named rows."""
    return flight.given, flight.given_scores


def without_nulls(flight: Flight) -> tuple[list[Any], list[float]]:
    """The named rows with missing numbers as 0, for a protocol that has no null."""
    return [{name: value or 0 for name, value in row.items()} for row in flight.given], flight.matrix_scores


def encoded(flight: Flight) -> tuple[list[Any], list[float]]:
    """The model's matrix with missing numbers as 0."""
    return flight.matrix, flight.matrix_scores


def columns(flight: Flight, rows: list[Any]) -> str:
    """The Open Inference Protocol's way to send a table: an input a column."""
    inputs = [
        {
            "name": name,
            "shape": [len(rows), 1],
            "datatype": "BYTES" if isinstance(rows[0][name], str) else "FP32",
            "data": [row[name] for row in rows],
        }
        for name in flight.names
    ]
    return compact({"inputs": inputs})


def tensor(flight: Flight, rows: list[Any]) -> str:
    """The same protocol's matrix, flat, which is read fastest."""
    flat = [value for row in rows for value in row]
    whole = {"name": "x", "shape": [len(rows), len(flight.names)], "datatype": "FP32", "data": flat}
    return compact({"inputs": [whole]})


def plain(_flight: Flight, rows: list[Any]) -> str:
    """The rows as JSON has them."""
    return compact({"rows": rows})


def dataframe_split(flight: Flight, rows: list[Any]) -> str:
    """A frame with its columns named once, which MLflow reads faster than records."""
    return compact({"dataframe_split": {"columns": flight.names, "data": [list(row.values()) for row in rows]}})


PROBABILITY = r"\d\.\d+(?:e-\d+)?"
"""Finds the scores in their answers, which hold no other broken numbers."""
SAME, ENCODED = "same row", "encoded"

PEERS = (
    Peer(
        "MLServer",
        "mlserver==1.7.1",
        18,
        start_mlserver,
        (
            Form(SAME, "/v2/models/flight/infer", without_nulls, columns),
            Form(ENCODED, "/v2/models/flight/infer", encoded, tensor),
        ),
    ),
    Peer(
        "LitServe",
        "litserve==0.2.19",
        20,
        start_litserve,
        (Form(SAME, "/predict", as_they_are, plain), Form(ENCODED, "/predict", encoded, plain)),
    ),
    Peer(
        "BentoML",
        "bentoml==1.4.40",
        25,
        start_bentoml,
        (Form(SAME, "/predict_named", as_they_are, plain), Form(ENCODED, "/predict", encoded, plain)),
    ),
    Peer("MLflow", "", 80, start_mlflow, (Form(SAME, "/invocations", as_they_are, dataframe_split),), longer=3.0),
)


def present(*, install: bool) -> list[Peer]:
    """The peers whose environments are there, made first if wanted; says which are left out."""
    found = []
    for peer in PEERS:
        marker = peer.environment / "installed"
        if install and peer.requirement and not marker.exists():
            make(peer, marker)
        if marker.exists() or not peer.requirement:
            found.append(peer)
        else:
            print(f"{peer.name} is left out: make bench NAME=serving ARGS=--peers installs it.")
    return found


def make(peer: Peer, marker: Path) -> None:
    """Install a peer by pip, which reads this machine's own configuration."""
    print(f"Installing {peer.requirement} into {peer.environment} …")
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(peer.environment)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", peer.tool("python"), "install", "--quiet"]
    subprocess.run([*pip, peer.requirement, RUNTIME], check=True)
    marker.write_text(peer.requirement)


@contextmanager
def served(peer: Peer, flight: Flight) -> Iterator[Server]:
    """The peer, running."""
    port = free_port()
    start = peer.start(peer, flight, port)
    log = FOLDER / "serving" / f"{peer.name.lower()}.log"
    with running(peer.name, start.command, port, log, env=start.env, cwd=start.cwd) as server:
        yield server
