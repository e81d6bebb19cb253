"""The device, precision and strategy of a fit, as Lightning Fabric provides them.

Fabric and not Lightning's Trainer: the loop is ours, so that a step costs what a bare torch step costs and a checkpoint
can hold the place in an epoch (docs/decisions). This module knows strategies; it does not know losses or epochs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint import state_dict as full_state
from torch.utils.checkpoint import checkpoint

from training.hardware import Chosen
from training.network.group import Group
from training.network.task import Recipe

_WHOLE = full_state.StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """A module set up to be fitted: call `module` on rows, step `optimizer`; `raw` holds the weights' names."""

    fabric: Any
    module: Any
    optimizer: Any
    raw: nn.Module
    group: Group
    sharded: bool

    @property
    def device(self) -> torch.device:
        """Where the rows of a batch must lie."""
        return torch.device(self.fabric.device)

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the module's state; of a sharded one it is whole, on the first process alone."""
        if self.sharded:
            return dict(full_state.get_model_state_dict(self.raw, options=_WHOLE))
        return {name: value.detach().clone() for name, value in self.raw.state_dict().items()}

    def optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state; of a sharded module it is whole, on the first process alone."""
        if self.sharded:
            return dict(full_state.get_optimizer_state_dict(self.raw, self.optimizer.optimizer, options=_WHOLE))
        return dict(self.optimizer.optimizer.state_dict())

    def load(self, weights: dict[str, torch.Tensor], optimizer: dict[str, Any]) -> None:
        """Set both to states that `weights` and `optimizer_state` gave."""
        if self.sharded:
            full_state.set_model_state_dict(self.raw, weights, options=_WHOLE)
            full_state.set_optimizer_state_dict(self.raw, self.optimizer.optimizer, optimizer, options=_WHOLE)
        else:
            self.raw.load_state_dict(weights)
            self.optimizer.optimizer.load_state_dict(optimizer)


def set_up(module: nn.Module, recipe: Recipe, chosen: Chosen, group: Group, *, compiled: bool) -> Machine:
    """Move, wrap and, if so, compile the module, and make its AdamW.

    With FSDP the module's own class and parameters change: hand over a copy.
    """
    fabric = _fabric(chosen, group)
    fabric.launch()
    given: Any = torch.compile(module) if compiled else module
    wrapped = fabric.setup_module(given)
    optimizer = torch.optim.AdamW(
        wrapped.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    sharded = chosen.strategy == "fsdp"
    return Machine(fabric, wrapped, fabric.setup_optimizers(optimizer), module, group, sharded)


def why_not_compiled(module: nn.Module, rows: torch.Tensor, chosen: Chosen) -> str:
    """Why `torch.compile` cannot compile the module on this machine, tried on some rows; empty when it can.

    Found out before the fit: later, a compiler that is missing ends it in its first step.
    """
    try:
        with torch.no_grad():
            torch.compile(module.eval().to(chosen.device))(rows.to(chosen.device))
    except Exception as error:  # dynamo, inductor and the compilers behind them raise whatever stands in their way
        # Inductor's first line names only itself; what is missing stands in the second.
        return f"not compiled: {type(error).__name__}: {' '.join(str(error).split(chr(10))[:2]).rstrip('.')}"
    return ""


def _fabric(chosen: Chosen, group: Group) -> Any:
    precision = "bf16-mixed" if chosen.precision == "bf16" else "32-true"
    if chosen.strategy == "single":
        return Fabric(accelerator=chosen.device, devices=1, precision=precision)
    strategy: Any = DDPStrategy()
    if chosen.strategy == "fsdp":
        strategy = ModelParallelStrategy(_shard, data_parallel_size=group.world, tensor_parallel_size=1)
    strategy.cluster_environment = _Joined(group)
    devices = group.world if chosen.device == "cpu" else torch.cuda.device_count()
    return Fabric(accelerator=chosen.device, devices=devices, strategy=strategy, precision=precision)


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2: each child gathers its weights when it runs. Unlike FSDP1 it runs on CPUs too, where it is tested."""
    from torch.distributed.fsdp import fully_shard

    # It warns of every module that ends in a view, such as `squeeze`, lest the caller change it in place: we do not.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = mesh["data_parallel"]
    for child in _running_children(module):
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    sharded: nn.Module = fully_shard(module, mesh=mesh)
    return sharded


@contextmanager
def checkpointed_activations(module: nn.Module, enabled: bool) -> Iterator[None]:
    """In the body, what a child computes between its input and output is computed again in the backward pass.

    The children's `forward` is replaced on the objects and given back, so that the weights' names stay as they are.
    """
    children = list(_running_children(module)) if enabled else []
    before = [vars(child).get("forward") for child in children]
    for child in children:
        child.forward = partial(checkpoint, child.forward, use_reentrant=False)
    try:
        yield
    finally:
        for child, forward in zip(children, before, strict=True):
            del child.forward
            if forward is not None:
                child.forward = forward


def _running_children(module: nn.Module) -> Iterator[nn.Module]:
    """The children that have a `forward`; of a list or dict of modules, those in it."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _running_children(child)
        else:
            yield child


class _Joined(ClusterEnvironment):  # type: ignore[misc]  # Fabric's types are not followed (pyproject)
    """Processes that have met already (`group.join`): Fabric takes their places as they are."""

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0

    def __init__(self, group: Group) -> None:
        self._group = group

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._group.world

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        return self._group.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        return self._group.local_rank

    def node_rank(self) -> int:
        return 0
