"""How often monitoring cries wolf, and what it finds: windows drawn with seeds, in processes beside each other.

Windows without change are rows of one period drawn again, against references drawn from the same period: five
references, each watched in a fifth of the windows, since an unlucky one is unlucky for all its windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.monitoring_scale import COLUMNS
from millrace.usecase import Monitor
from monitoring.drift import drift
from monitoring.estimate import estimate
from monitoring.slices import slice_drift

REFERENCES = 5
REFERENCE_ROWS = 5_000
TESTS = 8
"""Four windows of one reference, each in two families of tests, as `monitoring.sight` counts them for the flights."""


def alarms(rows: pl.DataFrame, n: int, windows: int, folder: Path, *, slices: tuple[str, ...] = ()) -> int:
    """In how many of so many windows of `n` unchanged rows anything drifted: a column, the score, or within a slice."""
    path = folder / "period.parquet"
    if not path.exists():
        rows.write_parquet(path)
    return sum(_beside(partial(_alarm, path, n, windows // REFERENCES, slices), range(windows)))


def _alarm(path: Path, n: int, each: int, slices: tuple[str, ...], at: int) -> bool:
    rows = pl.read_parquet(path, memory_map=False)
    reference = rows.sample(REFERENCE_ROWS, seed=1_000_000 + at // max(each, 1))
    window = rows.sample(n, with_replacement=True, seed=at)
    if slices:
        return any(one.columns for one in slice_drift(reference, window, slices, Monitor(), windows=TESTS))
    found = drift(reference, window, Monitor(), windows=TESTS)
    return bool(found.drifted) or bool(found.score and found.score.drifted)


def found_of_shifted(windows: int, n: int) -> float:
    """The share of shifted columns that are found: ten of fifty, by a standard deviation, in windows of `n` rows."""
    return sum(_beside(partial(_found, n), range(windows))) / (10 * windows)


def _found(n: int, seed: int) -> int:
    found = drift(_normal(REFERENCE_ROWS, 10_000 + seed), _normal(n, seed, 1.0, 10), Monitor(), windows=TESTS)
    return len(set(found.drifted) & {f"n{i}" for i in range(10)})


def alarms_of_nothing(windows: int, n: int, sample: int) -> int:
    """In how many windows of `n` rows, all fifty columns shifted by 0.02 standard deviations, a column drifted."""
    return sum(_beside(partial(_nothing, n, sample), range(windows)))


def _nothing(n: int, sample: int, seed: int) -> bool:
    pair = _normal(n, 10_000 + seed), _normal(n, seed, 0.02, COLUMNS)
    return bool(drift(*pair, Monitor(sample=sample), windows=TESTS).drifted)


def covered(windows: int) -> float:
    """In which share of windows with harder inputs the realised log loss lies in the band of the estimate."""
    return sum(_beside(_covered, range(windows))) / windows


def _covered(seed: int) -> bool:
    random = np.random.default_rng(seed)
    before, now = (_scored(random, rows, mean) for rows, mean in ((REFERENCE_ROWS, -1.2), (5_000, -0.8)))
    found = estimate(before, now["score"], seed=seed)
    y, p = now["label"].to_numpy(), now["score"].to_numpy()
    realised = float(-np.where(y == 1, np.log(p), np.log(1 - p)).mean())
    return found is not None and found.log_loss.low <= realised <= found.log_loss.high


def _scored(random: np.random.Generator, rows: int, mean: float) -> pl.DataFrame:
    """Scores that are a little too sure of themselves, and outcomes."""
    logit = random.normal(mean, 0.8, rows)
    outcome = random.random(rows) < 1 / (1 + np.exp(-(0.2 + 0.8 * logit)))
    return pl.DataFrame({"score": 1 / (1 + np.exp(-logit)), "label": outcome.astype(np.int8)})


def _normal(rows: int, seed: int, shift: float = 0.0, shifted: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame({f"n{i}": random.normal(shift if i < shifted else 0.0, 1.0, rows) for i in range(COLUMNS)})


def _beside(of_seed: Callable[[int], Any], seeds: Iterable[int]) -> list[Any]:
    """The answers, in order, of as many processes as there are cores: a fork would inherit Polars' locks."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return list(pool.map(of_seed, seeds, chunksize=5))
