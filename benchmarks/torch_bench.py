"""The torch estimator beside a bare PyTorch loop: the same network, batches and rows, in turns, in one run.

`benchmarks.training` prints these figures. The network is the flights' `embedding_net` on synthetic rows of their
shape. Both give the network its statistics, take the steps that the candidate declares (AdamW, clipped gradients) and
watch the last tenth after each epoch; the bare loop does nothing else, the estimator also checks its rows and each
loss, keeps the best weights and the curves. The time is the thread's own, so that what else runs weighs on neither.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from examples.flight_delay.models import embedding_net
from millrace import ModelInput, TorchCandidate
from training.hardware import Hardware

ROWS, EPOCHS, TURNS = 200_000, 2, 7
CATEGORIES = (16, 105, 12, 7)
NUMBERS = 26
CANDIDATE = TorchCandidate("mlp", embedding_net, max_epochs=EPOCHS, batch_size=1024, patience=EPOCHS)


def flights() -> tuple[tuple[ModelInput, ...], Any, Any]:
    """The inputs, X (200000, 30) with a twentieth of its numbers missing, and outcomes that depend on it."""
    random = np.random.default_rng(0)
    X = random.normal(size=(ROWS, NUMBERS + len(CATEGORIES))).astype(np.float32)
    X[random.random(X.shape) < 0.05] = np.nan
    for position, count in enumerate(CATEGORIES):
        X[:, NUMBERS + position] = random.integers(0, count + 1, ROWS)
    chance = 1 / (1 + np.exp(1.5 - np.nan_to_num(X[:, 0]) - (X[:, NUMBERS] == 3)))
    numbers = [ModelInput(f"number_{position}", "numeric") for position in range(NUMBERS)]
    codes = [ModelInput(f"code_{n}", "categorical", tuple(map(str, range(n)))) for n in CATEGORIES]
    return (*numbers, *codes), X, (random.random(ROWS) < chance).astype(np.int8)


def bare(inputs: tuple[ModelInput, ...], X: Any, y: Any) -> float:
    """Seconds of a thread for the epochs in a plain loop over the rows that the estimator fits and watches."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

    started = time.thread_time()
    torch.manual_seed(0)
    size = ROWS - ROWS // 10
    rows, outcomes = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))
    network = embedding_net(inputs)
    network.fit_statistics(rows[:size])
    optimizer = torch.optim.AdamW(network.parameters(), lr=CANDIDATE.learning_rate, fused=True)
    order = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        network.train()
        for chosen in torch.randperm(size, generator=order).split(CANDIDATE.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss_of(network(rows[chosen]), outcomes[chosen]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CANDIDATE.clip_norm)
            optimizer.step()
        network.eval()
        with torch.no_grad():
            loss_of(network(rows[size:]), outcomes[size:]).item()
    return time.thread_time() - started


def estimator(inputs: tuple[ModelInput, ...], X: Any, y: Any) -> float:
    """Seconds of a thread for `fit_torch` from the call to the classifier, watching and all."""
    from training.network import fit_torch

    started = time.thread_time()
    found = fit_torch(CANDIDATE, inputs, X, y, params={}, seed=0, hardware=Hardware(device="cpu"))
    took = time.thread_time() - started
    assert len(found.curves["fit_loss"]) == EPOCHS
    return took


def in_turns(first: Any, second: Any) -> tuple[float, float, float]:
    """The medians of both and of the ratio second / first within a turn, after one turn that is not counted."""
    turns = [(first(), second()) for _ in range(TURNS + 1)][1:]
    return median(a for a, _ in turns), median(b for _, b in turns), median(b / a for a, b in turns)


def rows() -> list[Figure]:
    """Rows a second of both, and their ratio, on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = flights()
        ours, peer, ratio = in_turns(partial(estimator, *given), partial(bare, *given))
    finally:
        torch.set_num_threads(before)
    fitted = EPOCHS * (ROWS - ROWS // 10)
    return [
        Figure("torch estimator, whole fit, one thread", fitted / ours, "rows/s", peer=fitted / peer),
        Figure("torch estimator, share of a bare loop's throughput", ratio, "×", target=0.9, sense=">="),
    ]
