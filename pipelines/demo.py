"""The demo: a use case's replay of a stretch of its past, with the first champion served over HTTP on the way.

The server is the one that production runs, a process of its own on loopback; every answer is compared with what the
offline path gives for the same row at the same instant.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from features.plan import ReadPlan
from features.training_set import historical_features, population_rows
from millrace.errors import MillraceError
from millrace.prediction_log import log_folder, ship
from millrace.registry import champion
from millrace.settings import child_environment, read_settings
from millrace.source import EVENT_TIME
from pipelines.progress import Progress
from pipelines.replay import Summary, replay
from pipelines.scoring import bundle_of, score_with
from pipelines.workspace import Workspace
from serving.keys import api_key

REQUESTS = 600
_READY_TIMEOUT_S = 60.0


def run_demo(
    use_case: str, *, start: datetime, until: datetime, short: bool, progress: Progress
) -> tuple[Summary, Path]:
    """Run the whole loop in a clean `demo` folder below the home folder; `short` replays its first two weeks.

    Raises `BusyError` when another demo runs there.
    """
    settings = read_settings()
    until = min(until, start + timedelta(days=14)) if short else until
    home = settings.home.absolute() / "demo"
    return replay(use_case, settings, home, start=start, until=until, progress=progress, online=serve_and_compare)


def serve_and_compare(ws: Workspace, at: datetime) -> Summary:
    """Serve the champion, ask it for rows of the next day as of `at`, and compare with the offline path."""
    version = champion(ws.db, ws.use_case.name).version
    rows = population_rows(ws.use_case, ws.lake, since=at, until=at + timedelta(days=1), as_of=at).head(REQUESTS)
    plan = ReadPlan.from_dict(bundle_of(ws, version).contract.read_plan)
    asked = rows.select(*plan.row_types, *ws.use_case.population.source.key)
    with _server(ws) as (url, key):
        answers, seconds = _ask(url, key, ws.use_case.name, asked, at)
    ship(log_folder(ws.settings, ws.use_case.name), ws.lake)
    offline = historical_features(ws.use_case, ws.settings, rows.with_columns(pl.lit(at).alias(EVENT_TIME)))
    offline = score_with(ws, offline, version)
    return _compare(answers, offline, seconds)


@contextmanager
def _server(ws: Workspace) -> Iterator[tuple[str, str]]:
    """`millrace serve` in a process of its own on a free loopback port, until the body ends; yields URL and key."""
    log = ws.settings.folder("logs") / "serve.log"
    command = [sys.executable, "-m", "millrace.cli", "serve", ws.use_case.name, "--port", "0"]
    with log.open("w") as out:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter; the name was checked by the loader
            command, stdout=out, stderr=subprocess.STDOUT, env=child_environment(ws.settings)
        )
    try:
        yield _wait_until_ready(process, log), api_key(ws.settings)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        url = next((word.rstrip("/") for word in log.read_text().split() if word.startswith("http://127.")), "")
        if url and httpx.get(f"{url}/health/ready").status_code == 200:
            return url
        time.sleep(0.05)
    raise MillraceError("The server did not become ready.", looked=f"Its log: {log.read_text()[-500:]}")


def _ask(
    url: str, key: str, use_case: str, rows: pl.DataFrame, at: datetime
) -> tuple[list[Mapping[str, Any] | None], list[float]]:
    """One request a row, one after the other; an answer that is not 200 is None. Also the seconds each took."""
    answers: list[Mapping[str, Any] | None] = []
    seconds = []
    moment = at.isoformat()
    with httpx.Client(base_url=url, headers={"X-API-Key": key}) as client:
        for row in rows.iter_rows(named=True):
            values = {name: _json(value) for name, value in row.items()}
            began = time.perf_counter()
            answer = client.post(f"/v1/{use_case}/predict", json={"rows": [values], "at": moment, "features": True})
            seconds.append(time.perf_counter() - began)
            answers.append(answer.json()["predictions"][0] if answer.status_code == 200 else None)
    return answers, seconds


def _compare(answers: Sequence[Mapping[str, Any] | None], offline: pl.DataFrame, seconds: Sequence[float]) -> Summary:
    features = scores = 0.0
    for answer, expected in zip(answers, offline.iter_rows(named=True), strict=True):
        if answer is not None:
            scores = max(scores, abs(answer["score"] - expected["score"]))
            pairs = [(value, expected[name]) for name, value in answer["features"].items()]
            features = max([features, *(_difference(online, stored) for online, stored in pairs)])
    ordered = sorted(seconds)
    return {
        "requests": len(answers),
        "errors": sum(answer is None for answer in answers),
        "p50_ms": round(1e3 * ordered[len(ordered) // 2], 3),
        "p99_ms": round(1e3 * ordered[int(len(ordered) * 0.99)], 3),
        "max_abs_feature_diff": features,
        "max_abs_score_diff": scores,
    }


def _difference(online: Any, offline: Any) -> float:
    """How far two values of one feature are apart: 0 for equal texts or both missing, infinite for unlike kinds."""
    online, offline = (None if isinstance(value, float) and isnan(value) else value for value in (online, offline))
    if online is None or offline is None or isinstance(online, str) or isinstance(offline, str):
        return 0.0 if online == offline else float("inf")
    return abs(float(online) - float(offline))


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
