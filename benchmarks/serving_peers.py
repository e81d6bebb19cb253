"""The peers of `benchmarks.serving`, each in an environment of its own under `.millrace/bench/peers/`.

All run the same ONNX model on one worker with adaptive batching, where they have it, and access logs off. MLServer,
LitServe and BentoML get the encoded matrix, which spares them what ours does (names, categories, missing values);
MLflow serves the registered model as it is, from our own environment.
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
class Peer:
    """A server to be compared with; ours must answer `factor` times as many requests of one row. Of `requirement`
    nothing is installed when it is empty; one that takes a second an answer is measured `longer` times as long."""

    name: str
    requirement: str
    factor: float
    path: str
    start: Callable[[Peer, Flight, int], Start]
    body: Callable[[Flight, list[Any]], str]
    longer: float = 1.0

    @property
    def environment(self) -> Path:
        """Its virtual environment."""
        return (ENVIRONMENTS / self.name.lower()).absolute()

    def tool(self, name: str) -> str:
        """A program of its environment."""
        return str(self.environment / "bin" / name)

    def case(self, flight: Flight, rows: int) -> Case:
        """The flights' rows as it takes them."""
        from_matrix = bool(self.requirement)
        values = flight.matrix if from_matrix else [[one[name] for name in flight.names] for one in flight.given]
        scores = flight.matrix_scores if from_matrix else flight.given_scores
        bodies = [self.body(flight, part) for part in parts(values, rows)]
        return Case(self.path, bodies, parts(scores, rows), PROBABILITY, rows)


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


def open_inference(flight: Flight, rows: list[Any]) -> str:
    """A tensor of the Open Inference Protocol, flat, which it reads fastest."""
    flat = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [len(rows), len(flight.names)], "datatype": "FP32", "data": flat}
    return compact({"inputs": [tensor]})


def plain(_flight: Flight, rows: list[Any]) -> str:
    """The matrix as lists."""
    return compact({"rows": rows})


def dataframe_split(flight: Flight, rows: list[Any]) -> str:
    """A frame with its columns named once, which MLflow reads faster than records."""
    return compact({"dataframe_split": {"columns": flight.names, "data": rows}})


PROBABILITY = r"\d\.\d+(?:e-\d+)?"
"""Finds the scores in their answers, which hold no other broken numbers."""

PEERS = (
    Peer("MLServer", "mlserver==1.7.1", 18, "/v2/models/flight/infer", start_mlserver, open_inference),
    Peer("LitServe", "litserve==0.2.19", 20, "/predict", start_litserve, plain),
    Peer("BentoML", "bentoml==1.4.40", 25, "/predict", start_bentoml, plain),
    Peer("MLflow", "", 80, "/invocations", start_mlflow, dataframe_split, longer=3.0),
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
