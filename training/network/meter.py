"""The losses of an epoch as they come: summed, and stopped at the first that is not finite.

On a GPU a loss is read one batch later, from pinned memory, so that the next batch need not wait for it. The module
knows losses, not how they are made smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import torch

from millrace.errors import TrainingError
from training.network.batches import Batch

_NAMED = 5


class LossMeter:
    """Sums of batch losses; `total` is in nats over the rows seen."""

    def __init__(
        self, name: str, row_losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], total: float = 0.0
    ) -> None:
        self._name, self._row_losses = name, row_losses
        self.total = total
        self._pending: tuple[torch.Tensor, torch.cuda.Event, torch.Tensor, Batch, str] | None = None

    def add(self, loss: torch.Tensor, logits: torch.Tensor, batch: Batch, place: str) -> None:
        """Take a batch's summed loss; `place` names epoch and batch. Raises `TrainingError` when it is not finite."""
        loss, logits = loss.detach(), logits.detach()
        if loss.device.type == "cpu":
            self._take(loss.item(), logits, batch, place)
            return
        copy, done = torch.empty((), pin_memory=True), torch.cuda.Event()
        copy.copy_(loss, non_blocking=True)
        done.record()
        self.flush()
        self._pending = copy, done, logits, batch, place

    def flush(self) -> None:
        """Take the loss that was not read yet."""
        if self._pending is not None:
            copy, done, logits, batch, place = self._pending
            self._pending = None
            done.synchronize()
            self._take(copy.item(), logits, batch, place)

    def _take(self, loss: float, logits: torch.Tensor, batch: Batch, place: str) -> None:
        if not math.isfinite(loss):
            bad = batch.positions[~torch.isfinite(self._row_losses(logits, batch.y)).cpu()]
            refuse(self._name, loss, place, rows_at(bad, batch))
        self.total += loss


def refuse(name: str, loss: float, place: str, looked: str, kind: str = "loss") -> NoReturn:
    """Raise the error that says where a loss or a gradient stopped being a number."""
    raise TrainingError(
        f"The {kind} of {name!r} became {loss} in {place}.",
        looked=looked,
        todo="Lower its learning_rate, or let its module handle missing inputs (NaN) before the first layer.",
    )


def rows_at(positions: torch.Tensor, batch: Batch) -> str:
    """The first rows without a finite loss, and how many of them have missing inputs."""
    if not len(positions):
        return f"Each row's own loss is finite; the batch's first rows are {_listed(batch.positions)}."
    bad = torch.isin(batch.positions, positions)
    missing = int(batch.X[bad.to(batch.X.device)].isnan().any(dim=1).sum())
    return (
        f"{len(positions)} of the batch's {len(batch.positions)} rows have no finite loss, {missing} of them a missing "
        f"input; the first are the fit rows {_listed(positions)}."
    )


def _listed(positions: torch.Tensor) -> str:
    return ", ".join(str(int(position)) for position in positions[:_NAMED])
