"""The server as a process: what it loads, how it starts, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from millrace.errors import BusyError, SettingsError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.keys import api_key
from serving.run import serve

from .conftest import Promote

SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from millrace.settings import read_settings
from serving.run import serve
use_case = conftest.late_use_case()
serve(read_settings(home={home!r}, port=0), use_case)
heavy = ("feast", "mlflow", "evidently", "prefect", "torch", "sklearn", "pandas", "pandera", "deltalake")
print("loaded:", *(name for name in heavy if name in sys.modules), flush=True)
"""


@contextmanager
def running(settings: Settings) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own, and its URL."""
    code = SERVER.format(tests=str(Path(__file__).parent), home=str(settings.home))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert api_key(settings) in line
        yield process, line.split()[2].rstrip("/")
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    assert process.stdout is not None
    return process.wait(timeout=30), process.stdout.read()


def test_it_answers_as_soon_as_it_says_where_and_loads_no_heavy_library(settings: Settings, promote: Promote) -> None:
    promote()
    with running(settings) as (process, url), httpx.Client(base_url=url) as client:
        client.headers["X-API-Key"] = api_key(settings)
        assert client.get("/health/ready").json()["ready"] is True
        for path in ("/", "/v1/models", "/v1/late/contract", "/metrics", "/openapi.json"):
            client.get(path)
        rows = [{"carrier": "UA", "distance": 1}, {"delay": 1, "far": 0}]
        answer = client.post("/v1/late/predict", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        assert [row["flags"] for row in answer.json()["predictions"]] == [["default:carrier_view"], []]
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (0, "loaded:\n")


def test_sigterm_makes_it_not_ready_drains_and_fails_no_request(settings: Settings, promote: Promote) -> None:
    promote()
    statuses: list[int] = []

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, headers={"X-API-Key": api_key(settings)}, timeout=30) as client:
            told_to_leave = False
            while not told_to_leave:
                answer = client.post("/v1/late/predict", json={"rows": [{"delay": 1, "far": 0}]})
                statuses.append(answer.status_code)
                told_to_leave = answer.headers.get("connection") == "close"

    with running(settings) as (process, url):
        workers = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        while len(statuses) < 20:
            pass
        process.send_signal(signal.SIGTERM)
        ready = httpx.get(f"{url}/health/ready")
        for worker in workers:
            worker.join(timeout=30)
        assert ended(process)[0] == 0
    assert set(statuses) == {200}
    assert (ready.status_code, ready.json()["draining"]) == (503, True)
    assert ready.headers["connection"] == "close"


def test_a_taken_port_is_told_with_what_to_type(settings: Settings, use_case: UseCase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"127.0.0.1:{port}") as caught:
            serve(settings.model_copy(update={"port": port}), use_case)
    assert "--port" in caught.value.todo


def test_an_address_of_another_machine_is_told(settings: Settings, use_case: UseCase) -> None:
    with pytest.raises(SettingsError, match="MILLRACE_HOST"):
        serve(settings.model_copy(update={"host": "192.0.2.1", "port": 0}), use_case)
