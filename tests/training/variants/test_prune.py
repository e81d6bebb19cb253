"""Networks without some of their channels: narrower in every layer but the last, and refused where that is unsafe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from millrace import Prune, TorchCandidate
from millrace.errors import TrainingError
from training.fit import Fitted
from training.made import Made, Rows
from training.network import TorchClassifier
from training.variants.prune import pruned

Make = Callable[..., list[Made]]


def pruned_module(module: nn.Module, rows: Rows, amount: float = 0.5) -> nn.Module:
    """The module pruned and fitted for one epoch."""
    candidate = TorchCandidate("net", lambda inputs: module, batch_size=256)
    fitted, _ = pruned(candidate, Fitted(TorchClassifier(module, {}), {}, {}), rows, Prune(amount, epochs=1))
    assert isinstance(fitted.model, TorchClassifier)
    return fitted.model.module


class Ends(nn.Module):
    """What ends in one logit a row of whatever layers it is given."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        X = torch.where(X.isnan(), 0.0, X)
        for layer in self.children():
            X = layer(X)
        return X.squeeze(-1)


def test_layers_lose_their_share_and_the_last_keeps_its_width(
    cnn: TorchCandidate, cnn_fitted: tuple[Fitted, Any], cnn_rows: Rows
) -> None:
    fitted, notes = pruned(cnn, cnn_fitted[0], cnn_rows, Prune(0.5, epochs=1))
    assert isinstance(fitted.model, TorchClassifier)
    weights = fitted.model.module.state_dict()
    assert weights["layers.0.weight"].shape == (4, 1, 3, 3)
    assert weights["layers.1.running_mean"].shape == (4,)
    assert weights["layers.5.weight"].shape == (8, 16)
    assert weights["layers.7.weight"].shape == (3, 8)
    assert notes["parameters"] == sum(one.numel() for one in fitted.model.module.parameters())
    assert notes["parameters"] < 0.5 * notes["parameters_before"]


def test_the_smallest_channels_go(net_rows: Rows) -> None:
    module = Ends(a=nn.Linear(2, 4), b=nn.ReLU(), c=nn.Linear(4, 1))
    with torch.no_grad():
        module.a.weight.copy_(torch.tensor([[9.0, 0], [0, 0.1], [0, 8.0], [0.1, 0]]))
        module.c.weight.copy_(torch.tensor([[1.0, 0.1, -1.0, 0.1]]))
    kept = pruned_module(module, net_rows).state_dict()["a.weight"]
    assert kept.abs().max(dim=1).values.tolist() == pytest.approx([9.0, 8.0], abs=0.5)


def test_it_is_fitted_for_as_many_epochs_as_declared(made_of: Make) -> None:
    (made,) = made_of(Prune(0.25, epochs=2))
    assert (made.name, len(made.curves["watch_loss"])) == ("net+prune25", 2)


def test_embeddings_keep_their_width(net_rows: Rows) -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.hidden, self.last = nn.Embedding(3, 4), nn.Linear(6, 8), nn.Linear(8, 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            X = torch.where(X.isnan(), 0.0, X)
            code = (X[:, 0] > 0).long()
            return self.last(self.hidden(torch.cat([X, self.embedding(code)], dim=1)).relu()).squeeze(-1)

    weights = pruned_module(Embedding(), net_rows).state_dict()
    assert (weights["embedding.weight"].shape, weights["hidden.weight"].shape) == ((3, 4), (4, 6))


def test_a_parameter_outside_of_layers_is_named(net_rows: Rows) -> None:
    class Scaled(Ends):
        def __init__(self) -> None:
            super().__init__(a=nn.Linear(2, 8), b=nn.ReLU(), c=nn.Linear(8, 1))
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return super().forward(X * self.scale)

    with pytest.raises(TrainingError, match=r"'scale'"):
        pruned_module(Scaled(), net_rows)


def test_a_layer_that_reads_a_fixed_width_is_named(net_rows: Rows) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.last = nn.Linear(2, 8), nn.Linear(8, 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            hidden = self.wide(torch.where(X.isnan(), 0.0, X)).relu()
            return self.last(hidden + torch.ones(8)).squeeze(-1)

    with pytest.raises(TrainingError, match=r"stops at the layer 'wide', or behind it"):
        pruned_module(Fixed(), net_rows)


def test_a_layer_whose_parts_cannot_be_followed_is_named(net_rows: Rows) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gru, self.last = nn.Linear(2, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            hidden, _ = self.gru(self.first(torch.where(X.isnan(), 0.0, X))[:, None])
            return self.last(hidden[:, 0]).squeeze(-1)

    with pytest.raises(TrainingError, match=r"gru\.weight_ih_l0"):
        pruned_module(Recurrent(), net_rows)


def test_what_the_pruner_raises_is_told_with_the_layers(monkeypatch: pytest.MonkeyPatch, net_rows: Rows) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise IndexError("no such channel")

    monkeypatch.setattr("torch_pruning.pruner.MagnitudePruner.step", fails)
    with pytest.raises(TrainingError, match=r"no such channel.*a \(Linear\), b \(ReLU\), c \(Linear\)"):
        pruned_module(Ends(a=nn.Linear(2, 4), b=nn.ReLU(), c=nn.Linear(4, 1)), net_rows)


@pytest.mark.parametrize("module", [Ends(only=nn.Linear(2, 1)), Ends(rnn=nn.Flatten(), last=nn.Linear(2, 1))])
def test_a_module_without_a_layer_to_prune_is_refused(module: nn.Module, net_rows: Rows) -> None:
    with pytest.raises(TrainingError, match=r"No layer of it can lose a channel.*\(Linear\)"):
        pruned_module(module, net_rows)


def test_what_is_no_network_is_refused(net: TorchCandidate, net_fitted: tuple[Fitted, Any], net_rows: Rows) -> None:
    class Other:
        def predict_proba(self, matrix: Any) -> Any:
            return matrix

    with pytest.raises(TrainingError, match=r"not a Other"):
        pruned(net, replace(net_fitted[0], model=Other()), net_rows, Prune(0.5))
