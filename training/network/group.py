"""The processes that fit one network together, and what they tell each other.

It knows torch.distributed's collectives; it does not know who started the processes or what they fit. One process alone
is a group too, whose calls cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place: `rank` of `world`, and `local_rank` on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    def sums(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def from_first(self, value: T) -> T:
        """What the first process has, on all."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """What every process has, by rank, on all."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


def join(group: Group, device: str, *, meeting: str | None = None) -> None:
    """Meet the other processes at `meeting` (a URL), or where the environment's variables say; once a process.

    gloo carries what is on the CPU, NCCL what is on GPUs.
    """
    if distributed.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(group.local_rank)
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, init_method=meeting, rank=group.rank, world_size=group.world)
