"""A fitted network as a classifier: a matrix in, probabilities out, in parts that fit memory.

It knows the module's logits; it does not know how they were learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

SCORING_ROWS = 16_384
"""Rows that go through a network at once when no gradient is needed."""


class TorchClassifier:
    """A fitted network with scikit-learn's `predict_proba`.

    `module` is on the CPU and in eval mode. `curves` hold one number an epoch: `fit_loss` and `watch_loss` in nats,
    `learning_rate`, `seconds` and `rows_per_second` of the pass over the fit rows, and with a GPU `gpu_memory_mb` and
    `gpu_utilization` in percent. `reason` says which device, precision and strategy fitted it, and why.
    """

    def __init__(self, module: torch.nn.Module, curves: Mapping[str, Sequence[float]], reason: str = "") -> None:
        self.module, self.curves, self.reason = module, curves, reason

    def predict_proba(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities (rows, 2) of the outcomes 0 and 1, or (rows, classes)."""
        import torch

        logits = logits_of(self.module, torch.from_numpy(np.require(matrix, np.float32, ["C", "W"])))
        if logits.ndim == 2:
            return np.asarray(torch.softmax(logits.double(), dim=1).numpy(), dtype=np.float64)
        positive = torch.sigmoid(logits).numpy().astype(np.float64)
        return np.column_stack([1 - positive, positive])


def logits_of(module: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The logits (rows,) or (rows, classes) of a module, which is left in eval mode."""
    import torch

    module.eval()
    with torch.no_grad():
        return torch.cat([module(part) for part in rows.split(SCORING_ROWS)])
