"""The rows of a fit: in which order they come, which part of a batch a process takes, where they lie.

The order depends on the generator alone, never on how many processes share it, so that two processes see the global
batches that one would. It does not know networks or losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from training.network.classifier import SCORING_ROWS
from training.network.group import Group

_LEAST_SHARE = 8
"""A last batch of less than 1 / 8 of a batch joins the one before it: batch normalization fails on a single row."""
_FREE_SHARE = 0.5
"""Rows that take no more than this share of a GPU's free memory are kept there."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows by their positions among the fit rows, their inputs, outcomes and, with a teacher, its soft targets."""

    positions: torch.Tensor
    X: torch.Tensor
    y: torch.Tensor
    soft: torch.Tensor | None


class Rows:
    """Tensors with one first axis, on `device` or beside it: then each batch travels."""

    def __init__(
        self, X: torch.Tensor, y: torch.Tensor, soft: torch.Tensor | None = None, *, device: torch.device
    ) -> None:
        self._device = device
        size = sum(part.nbytes for part in (X, y, soft) if part is not None)
        stays = device.type == "cpu" or size <= _FREE_SHARE * torch.cuda.mem_get_info(device)[0]
        self._place = device if stays else torch.device("cpu")
        self._X, self._y = X.to(self._place), y.to(self._place)
        self._soft = None if soft is None else soft.to(self._place)

    def __len__(self) -> int:
        return len(self._X)

    def at(self, positions: torch.Tensor) -> Batch:
        """The rows at `positions` (CPU, int64), on the device."""
        found = positions.to(self._place, non_blocking=True)
        return Batch(
            positions,
            self._X.index_select(0, found).to(self._device, non_blocking=True),
            self._y.index_select(0, found).to(self._device, non_blocking=True),
            None if self._soft is None else self._soft.index_select(0, found).to(self._device, non_blocking=True),
        )

    def parts(self, group: Group) -> Iterator[Batch]:
        """This process's share of all rows in their order, in as many parts on every process."""
        for part in torch.arange(len(self)).split(SCORING_ROWS):
            yield self.at(share(part, group))


def share(positions: torch.Tensor, group: Group) -> torch.Tensor:
    """The part of a global batch that this process takes."""
    return positions if group.world == 1 else positions[group.rank :: group.world]


def steps(rows: int, batch_size: int, accumulate: int, order: torch.Generator) -> list[tuple[torch.Tensor, ...]]:
    """All rows once in a new order: for each optimizer step its `accumulate` global batches of positions."""
    batches = list(torch.randperm(rows, generator=order).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) * _LEAST_SHARE < batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return [tuple(batches[start : start + accumulate]) for start in range(0, len(batches), accumulate)]
