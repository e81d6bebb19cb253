"""A network without the channels of smallest norm, fitted further: smaller matrices, not zeros in large ones.

Which channels hang together (a layer's outputs, the normalization behind it, the inputs of the next) is followed by
torch-pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023); a channel's worth
is the L2 norm of its weights in all layers of its group. This module knows modules; it does not know how they are
served.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

from millrace.candidates import Prune, TorchCandidate
from millrace.errors import TrainingError, first_line
from training.fit import Fitted
from training.made import Rows

if TYPE_CHECKING:
    import torch
    from torch import nn

_EXAMPLES = 4


def pruned(candidate: TorchCandidate, fitted: Fitted, rows: Rows, variant: Prune) -> tuple[Fitted, dict[str, Any]]:
    """The network without `variant.amount` of each layer's channels, fitted again for `variant.epochs`, and notes.

    The fitted network is not changed; the output layer keeps its width, and embeddings keep theirs. Raises
    `TrainingError` naming the layer or parameter that cannot be followed, or when no layer can lose a channel.
    """
    import torch

    from training.network import TorchClassifier, fit_torch

    if not isinstance(fitted.model, TorchClassifier):
        raise TrainingError(f"Only a torch network can be pruned, not a {type(fitted.model).__name__}.")
    module = copy.deepcopy(fitted.model.module).eval()
    before = _size(module)
    _remove_channels(module, torch.from_numpy(rows.X[:_EXAMPLES].copy()), variant.amount)
    network = fit_torch(
        candidate,
        rows.model_inputs,
        rows.X,
        rows.y,
        classes=rows.classes,
        params=fitted.params,
        seed=rows.seed,
        hardware=rows.hardware,
        start=module,
        epochs=variant.epochs,
    )
    notes = {"device": network.reason, "parameters": _size(module), "parameters_before": before}
    return Fitted(network, fitted.params, network.curves, network.reason), notes


def _remove_channels(module: nn.Module, example: torch.Tensor, amount: float) -> None:
    """Remove the share `amount` of each prunable layer's channels, in place, and check that the module still runs."""
    (shape, called), before = _run(module, example), _size(module)
    if called:
        _prune(module, example, amount, last=called[-1])
    if _size(module) == before:
        raise TrainingError(
            "No layer of it can lose a channel.",
            looked=f"Its layers are {_layers(module)}; the last one gives the logits and keeps its width, and channels "
            "that are reshaped apart cannot be followed.",
            todo="Leave Prune(…) away.",
        )
    found, _ = _run(module, example)
    if found != shape:
        raise TrainingError(
            f"Without some of its channels its output is {found}, not {shape}.",
            todo="Let its last layer alone give the logits, or leave Prune(…) away.",
        )


def _prune(module: nn.Module, example: torch.Tensor, amount: float, *, last: nn.Module) -> None:
    """Remove channels of all layers but the last. The pruner guesses at parameters outside of layers and warns of it,
    and what it guessed wrong may still run: such a module is refused."""
    import torch_pruning

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Unwrapped parameters")
            torch_pruning.pruner.MagnitudePruner(
                module,
                example,
                importance=torch_pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=amount,
                ignored_layers=[last],
            ).step()
    except Exception as error:  # that warning, or whatever following the user's module raises
        raise TrainingError(
            f"Its channels cannot be followed: {first_line(error)}.",
            looked=f"Its layers are {_layers(module)}.",
            todo="Build it of layers (Linear, Conv, BatchNorm, LSTM, …) alone, or leave Prune(…) away.",
        ) from error


def _run(module: nn.Module, example: torch.Tensor) -> tuple[tuple[int, ...], list[nn.Module]]:
    """The output's shape, and the layers with weights in the order of their calls; an error names where it stopped."""
    import torch

    entered = [""]
    called: list[nn.Module] = []
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    hooks = []
    for name, layer in module.named_modules():
        if not list(layer.children()):
            hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: entered.append(name)))
        if isinstance(layer, kinds):
            hooks.append(layer.register_forward_hook(lambda layer, *_: called.append(layer)))
    try:
        with torch.no_grad():
            return tuple(module(example).shape), called
    except Exception as error:  # whatever the user's module raises when its channels do not fit
        raise TrainingError(
            f"Without some of its channels it stops at the layer {entered[-1]!r}, or behind it.",
            looked=first_line(error) + ".",
            todo="Let forward take sizes from its inputs instead of fixing them, or leave Prune(…) away.",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _layers(module: nn.Module) -> str:
    named = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    return ", ".join(f"{name} ({type(layer).__name__})" if name else type(layer).__name__ for name, layer in named)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
