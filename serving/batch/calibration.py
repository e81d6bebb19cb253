"""How a model is run in bulk on this machine: chunks at once, threads for each, rows a call, chosen by trying.

A trial predicts rows of the model's own reference sample, drawn again and again. It knows nothing of jobs.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np

from millrace.bundle import Bundle
from millrace.contract import Matrix
from millrace.engine import Engine, open_engine
from millrace.settings import Settings
from serving.batch.plan import Choice

BUDGET_SECONDS = 2.0
"""What all trials together may take, however slow the model."""
BATCHES = (4_096, 16_384, 65_536)
_BETTER = 1.05
"""A later candidate must be this much faster: they come in the order of what they cost in memory and threads."""


def machine() -> str:
    """What a choice holds for: this host, and the cores that this process may use."""
    return f"{platform.node()}, {cores()} cores"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def calibrate(bundle: Bundle, settings: Settings, *, budget: float) -> Choice:
    """The fastest way found to run the bundle's model; trials that the `budget` (seconds) leaves no time for are not
    made, so that of a slow model the plainest way that was tried counts."""
    deadline = time.monotonic() + budget
    matrix = _sample(bundle, max(BATCHES))
    best = Choice(machine=machine())
    for workers, threads in _ways(cores()):
        engine = open_engine(bundle, threads=threads, settings=settings)
        for rows in BATCHES:
            left = deadline - time.monotonic()
            if left <= 0:
                return best
            speed = _speed(engine, matrix[:rows], workers, seconds=min(left, budget / 12))
            if speed > best.rows_per_second * _BETTER:
                best = Choice(workers, threads, rows, round(speed), best.machine)
    return best


def _ways(available: int) -> Iterator[tuple[int, int]]:
    """(chunks at once, threads of each) that use at most all cores: one, half of them, and all.

    Chunks at once come before threads: what reads and joins a chunk runs beside the others then.
    """
    sizes = sorted({1, max(1, available // 2), available})
    yield from ((workers, threads) for threads, workers in product(sizes, sizes) if workers * threads <= available)


def _sample(bundle: Bundle, rows: int) -> Matrix:
    matrix = bundle.contract.encode_frame(bundle.reference())
    if not len(matrix):
        return np.zeros((rows, bundle.contract.width), dtype=np.float32)
    return matrix[np.random.default_rng(0).integers(0, len(matrix), rows)]


def _speed(engine: Engine, matrix: Matrix, workers: int, *, seconds: float) -> float:
    """Rows a second of `workers` threads that predict the matrix over and over for about so many seconds."""
    engine.predict(matrix[:256])
    began = time.monotonic()

    def predict(until: float) -> int:
        calls = 0
        while calls == 0 or time.monotonic() < until:
            engine.predict(matrix)
            calls += 1
        return calls

    calls = _together(predict, workers, began + seconds)
    return calls * len(matrix) / (time.monotonic() - began)


def _together(predict: Callable[[float], int], workers: int, until: float) -> int:
    if workers == 1:
        return predict(until)
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(predict, [until] * workers))
