"""Ingests that are killed at any moment, or run twice at once, leave the tables as one undisturbed run does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from millrace.lake import Lake
from millrace.lake.care import verify

ROOT = Path(__file__).parents[2]
KILLS = 10

HOST = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
import pandera.polars as pa
import polars as pl
from millrace import Plausible, Source
from millrace.lake import Lake
from millrace.lake.care import compact
from millrace.settings import Settings
from pipelines.ingest import ingest_source

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
TYPES = {"key": pl.String, "value": pl.Float64, "event_time": INSTANT, "known_at": INSTANT}

def read(since, until):
    hours = [hour for hour in range(24 * 12) if since < START + timedelta(hours=hour) <= until]
    rows = [(f"k{(hour * 7 + n) % 400}" if n else f"B{hour}", float(n), START + timedelta(hours=hour))
            for hour in hours for n in range(20)]
    return pl.DataFrame([(*row, row[2]) for row in rows], schema=TYPES, orient="row")

def schema():
    return pa.DataFrameSchema({"key": pa.Column(pl.String, pa.Check.str_matches("^k")), "value": pa.Column(pl.Float64)})

def work(lake):
    source = Source("readings", read, schema, key=("key",), plausible=Plausible(ignore=("*",)))
    for day in range(1, 13):
        ingest_source(source, lake, Settings(), since=None, as_of=START + timedelta(days=day))
        if day % 3 == 0:
            compact(lake, "raw/readings")

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a child that was killed is gone at once
for line in sys.stdin:
    child = os.fork()  # before polars has a thread: the children need not import anything again
    if child == 0:
        try:
            work(Lake(line.strip()))
            print("done", os.getpid(), flush=True)
        except BaseException as error:
            print("failed", os.getpid(), repr(error), flush=True)
        os._exit(0)
    print("started", child, flush=True)
"""


class Host:
    """A process that forks one that ingests twelve days into a lake, each time it is told to."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", HOST], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def start(self, lake: Lake) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{lake.root}\n")
        self._process.stdin.flush()
        return int(self._line("started")[1])

    def finish(self, *pids: int) -> None:
        left = set(pids)
        while left:
            told = self._line("done", "failed")
            assert told[0] == "done", told
            left.discard(int(told[1]))

    def kill(self, pid: int) -> None:
        try:
            while True:
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.001)
        except ProcessLookupError:
            return

    def stop(self) -> None:
        self._process.communicate()

    def _line(self, *kinds: str) -> list[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.split()[0] in kinds:
                return line.split(maxsplit=2)
        raise AssertionError("the host has ended")


def tables(lake: Lake) -> tuple[pl.DataFrame, list[str]]:
    """The good rows as they stand, and the bad ones."""
    good = lake.scan("raw/readings").sort("key").collect()
    return good, sorted(lake.scan("quarantine/readings").collect()["row"].to_list())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.stop()


@pytest.fixture(scope="module")
def undisturbed(host: Host, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, list[str], float]:
    """The tables after one run, and how many seconds it took."""
    lake = Lake(str(tmp_path_factory.mktemp("whole")))
    pid, began = host.start(lake), time.monotonic()
    host.finish(pid)
    return *tables(lake), time.monotonic() - began


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


@pytest.fixture
def same(undisturbed: tuple[pl.DataFrame, list[str], float]) -> Callable[[Lake], None]:
    def check(lake: Lake) -> None:
        good, bad = tables(lake)
        assert good.equals(undisturbed[0])
        assert bad == undisturbed[1]
        assert verify(lake, "raw/readings").ok
        assert verify(lake, "quarantine/readings").ok

    return check


def test_killed_at_ten_moments_and_run_again_leaves_what_one_run_leaves(
    host: Host, lake: Lake, undisturbed: tuple[pl.DataFrame, list[str], float], same: Callable[[Lake], None]
) -> None:
    moments = random.Random(3)
    for _ in range(KILLS):
        pid = host.start(lake)
        time.sleep(moments.uniform(0, undisturbed[2] / 4))  # the next continues where this one ended
        host.kill(pid)
    host.finish(host.start(lake))
    same(lake)


def test_two_processes_at_once_leave_what_one_leaves(host: Host, lake: Lake, same: Callable[[Lake], None]) -> None:
    host.finish(host.start(lake), host.start(lake))
    same(lake)
