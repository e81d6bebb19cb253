"""Our own server for `benchmarks.serving`: `millrace serve` as anybody starts it, its keys, its features in Redis."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import FOLDER
from benchmarks.serving_flight import AS_OF, USE_CASE, Flight
from benchmarks.serving_servers import Server, free_port, running
from millrace.prediction_log import log_folder
from millrace.settings import Settings, child_environment

MILLRACE = str(Path(sys.executable).parent / "millrace")
READY = "/health/ready"
QUOTA_OF_ALL = 1_000_000
"""Requests a second that the measured key may send: never reached, always counted."""


@dataclass(frozen=True)
class Keys:
    """The headers of a client whose quota is counted but never reached, and of one that may send few."""

    wide: dict[str, str]
    narrow: dict[str, str]


@contextmanager
def issued(settings: Settings, quota: int) -> Iterator[Keys]:
    """Two keys, revoked on leaving."""
    names = [f"bench-{secrets.token_hex(4)}" for _ in range(2)]
    wide, narrow = (create(settings, name, most) for name, most in zip(names, (QUOTA_OF_ALL, quota), strict=True))
    try:
        yield Keys({"X-API-Key": wide}, {"X-API-Key": narrow})
    finally:
        for name in names:
            command(settings, "keys", "revoke", name)


def create(settings: Settings, name: str, requests_per_second: int) -> str:
    """A new key of this quota."""
    made = command(settings, "keys", "create", name, "--requests-per-second", str(requests_per_second), "--json")
    key: str = json.loads(made)["key"]
    return key


def command(settings: Settings, *arguments: str) -> str:
    """What `millrace …` prints."""
    return subprocess.run(
        [MILLRACE, *arguments], env=child_environment(settings), capture_output=True, text=True, check=True
    ).stdout


@contextmanager
def ours(flight: Flight, settings: Settings, keys: Keys, *, name: str = "ours") -> Iterator[Server]:
    """`millrace serve`, ready; what it logged of predictions is removed with it."""
    port = free_port()
    arguments = [MILLRACE, "serve", USE_CASE, "--port", str(port)]
    log, env = FOLDER / "serving" / f"{name}.log", child_environment(settings)
    with running(name, arguments, port, log, env=env, headers=keys.wide) as server:
        await_ready(server)
        try:
            yield server
        finally:
            server.end()
            for segment in log_folder(flight.settings, USE_CASE).glob("*.log"):
                segment.unlink()


def await_ready(server: Server, *, patience: float = 60.0) -> float:
    """Wait until it says that it is ready; returns the seconds that it took from now."""
    began = time.perf_counter()
    while server.get(READY) != 200:
        if server.process.poll() is not None or time.perf_counter() - began > patience:
            raise SystemExit(f"Our server does not get ready. Its log ends:\n{server.log.read_text()[-2_000:]}")
        time.sleep(0.01)
    return time.perf_counter() - began


def start_seconds(settings: Settings) -> float:
    """From starting the process to its first 200 on the ready route."""
    port = free_port()
    arguments = [MILLRACE, "serve", USE_CASE, "--port", str(port)]
    log, env = FOLDER / "serving" / "start.log", child_environment(settings)
    with running("start", arguments, port, log, env=env) as server:
        return await_ready(server)


@contextmanager
def redis_features(flight: Flight) -> Iterator[Settings | None]:
    """Settings of the same platform with its features in Redis, under keys of their own, removed on leaving; None
    without a Redis."""
    from redis import Redis
    from redis.exceptions import RedisError

    from features.materialize import materialize
    from millrace.loader import load_use_case

    remote = flight.settings.model_copy(
        update={"online_store": "redis", "redis_prefix": f"millrace-bench-{secrets.token_hex(4)}"}
    )
    client = Redis.from_url(remote.redis_url)
    try:
        client.ping()
    except RedisError:
        print(f"No Redis answers at {remote.redis_url}: its figures are left out.")
        yield None
        return
    try:
        materialize(load_use_case(USE_CASE, remote), remote, as_of=AS_OF)
        yield remote
    finally:
        for name in client.scan_iter(match=f"{remote.redis_prefix}:*", count=1_000):
            client.delete(name)
        client.close()
