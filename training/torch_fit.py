"""A torch network, fitted: AdamW on binary cross-entropy, stopped early by the last tenth of the rows in time.

A plain loop on the CPU. It knows the network only as a `torch.nn.Module` from (rows, inputs) to logits (rows,). A
network that wants the fit rows' statistics (means, scales) has a method `fit_statistics(X)`, called once before the
first step with the rows as a float32 tensor, NaN where missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import ModelInput, TorchCandidate
from millrace.errors import TrainingError

if TYPE_CHECKING:
    import torch

PATIENCE = 2
"""Epochs without a better loss on the last tenth before it stops."""
_CLIP_NORM = 1.0
_SCORING_ROWS = 16_384


class TorchClassifier:
    """A fitted network with scikit-learn's `predict_proba`; `curves` are its mean losses by epoch."""

    def __init__(self, module: torch.nn.Module, curves: Mapping[str, Sequence[float]]) -> None:
        self.module, self.curves = module, curves

    def predict_proba(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities (rows, 2) of the outcomes 0 and 1."""
        import torch

        positive = torch.sigmoid(_logits(self.module, torch.from_numpy(matrix))).numpy().astype(np.float64)
        return np.column_stack([1 - positive, positive])


def fit_torch(
    candidate: TorchCandidate,
    inputs: Sequence[ModelInput],
    X: NDArray[np.float32],
    y: NDArray[np.int8],
    *,
    params: Mapping[str, Any],
    seed: int,
    threads: int,
) -> TorchClassifier:
    """Fit on rows in time order; the weights of the best epoch are kept.

    Raises `TrainingError` when the candidate builds no module, its output has another shape, or a loss is not finite.
    """
    import torch

    with _seeded(seed, threads):
        module = candidate.module(inputs, **params)
        if not isinstance(module, torch.nn.Module):
            raise TrainingError(
                f"The candidate {candidate.name!r} built a {type(module).__name__}, not a torch.nn.Module."
            )
        rows, outcomes = torch.from_numpy(np.ascontiguousarray(X)), torch.from_numpy(y.astype(np.float32))
        size = len(rows) - max(1, len(rows) // 10)
        _check_output(candidate, module, rows[:2])
        if callable(hook := getattr(module, "fit_statistics", None)):
            hook(rows[:size])
        fitting, watching = (rows[:size], outcomes[:size]), (rows[size:], outcomes[size:])
        curves = _run_epochs(candidate, module, fitting, watching, seed)
    return TorchClassifier(module.eval(), curves)


def _run_epochs(
    candidate: TorchCandidate,
    module: torch.nn.Module,
    fitting: tuple[torch.Tensor, torch.Tensor],
    watching: tuple[torch.Tensor, torch.Tensor],
    seed: int,
) -> dict[str, list[float]]:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    optimizer = torch.optim.AdamW(module.parameters(), lr=candidate.learning_rate, fused=True)
    order = torch.Generator().manual_seed(seed)
    curves: dict[str, list[float]] = {"fit_loss": [], "watch_loss": []}
    best, since, weights = float("inf"), 0, module.state_dict()
    for epoch in range(candidate.max_epochs):
        curves["fit_loss"].append(_run_epoch(candidate, module, optimizer, fitting, order, epoch))
        loss = float(cross_entropy(_logits(module, watching[0]), watching[1]))
        curves["watch_loss"].append(loss)
        if loss < best:
            best, since, weights = loss, 0, {name: value.clone() for name, value in module.state_dict().items()}
        else:
            since += 1
        if since >= PATIENCE:
            break
    module.load_state_dict(weights)
    return curves


def _run_epoch(
    candidate: TorchCandidate,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    fitting: tuple[torch.Tensor, torch.Tensor],
    order: torch.Generator,
    epoch: int,
) -> float:
    """One pass over the rows in a new order; returns the mean loss."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    module.train()
    rows, outcomes = fitting
    total = 0.0
    for batch, chosen in enumerate(torch.randperm(len(rows), generator=order).split(candidate.batch_size)):
        loss = cross_entropy(module(rows[chosen]), outcomes[chosen])
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss of {candidate.name!r} became {loss.item()} in epoch {epoch + 1}, batch {batch + 1}.",
                todo="Lower its learning_rate, or let its module handle missing inputs (NaN) before the first layer.",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), _CLIP_NORM)
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / len(rows)


def _logits(module: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    import torch

    module.eval()
    with torch.no_grad():
        return torch.cat([module(part) for part in rows.split(_SCORING_ROWS)])


def _check_output(candidate: TorchCandidate, module: torch.nn.Module, rows: torch.Tensor) -> None:
    shape = tuple(_logits(module, rows).shape)
    if shape != (len(rows),):
        raise TrainingError(
            f"The module of {candidate.name!r} gives {shape} for {len(rows)} rows; one logit a row is wanted.",
            todo="End its forward with .squeeze(-1).",
        )


@contextmanager
def _seeded(seed: int, threads: int) -> Iterator[None]:
    """Torch's random numbers and threads are ours in the body and as they were after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
