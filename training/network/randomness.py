"""Random numbers of a fit: seeded, kept in a checkpoint, and given back to the caller as they were.

It covers torch (the CPU and the current GPU), numpy's global generator and Python's: a module may draw from any.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """The generators and torch's threads are the fit's in the body, and as they were after it."""
    before, count = captured(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        start(seed)
        yield
    finally:
        restore(before)
        torch.set_num_threads(count)


def start(seed: int, rank: int = 0) -> None:
    """Seed all generators; another rank draws other numbers."""
    seed = (seed + 1_000_003 * rank) % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)  # the global generator is the one that a module's code may use
    random.seed(seed)


def captured() -> dict[str, Any]:
    """The generators' states as tensors and numbers, which a checkpoint may hold."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "python": random.getstate(),
    }


def restore(state: dict[str, Any]) -> None:
    """Set the generators to a captured state."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
