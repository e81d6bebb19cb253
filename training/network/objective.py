"""What a fit minimizes: cross-entropy with the true outcomes, and with a teacher's probabilities when there is one.

It knows logits and targets as tensors; it does not know batches, epochs or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

_LEAST = 1e-7
"""A teacher's probabilities are kept this far from 0 and 1, whose logits are infinite."""


@dataclass(frozen=True, slots=True)
class Objective:
    """`classes` is 0 for one logit a row; `weight` is the teacher's share of the loss, 0 without a teacher.

    With a teacher the loss of a row is (1 - w) · CE(z, y) + w · T² · CE(z / T, softmax(z_teacher / T)): Hinton, Vinyals
    & Dean, "Distilling the Knowledge in a Neural Network", 2015. T² keeps the gradients' size as T changes.
    """

    classes: int = 0
    weight: float = 0.0
    temperature: float = 1.0

    def targets(self, y: NDArray[np.int8]) -> torch.Tensor:
        """Outcomes as the losses want them: float32 for one logit, else int64 class positions."""
        return torch.from_numpy(y.astype(np.int64 if self.classes else np.float32))

    def soft_targets(self, teacher: NDArray[np.float64]) -> torch.Tensor:
        """A teacher's probabilities (rows,) or (rows, classes), softened by the temperature."""
        p = torch.from_numpy(np.clip(teacher, _LEAST, 1 - _LEAST))
        if self.classes:
            return torch.softmax(p.log() / self.temperature, dim=1).float()
        return torch.sigmoid(torch.logit(p) / self.temperature).float()

    def row_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The log loss (rows,) with the true outcomes alone: what a model is judged by."""
        return self._cross_entropy(logits, targets, "none")

    def sum(self, logits: torch.Tensor, targets: torch.Tensor, soft: torch.Tensor | None) -> torch.Tensor:
        """The loss that is minimized, summed over the rows."""
        loss = self._cross_entropy(logits, targets, "sum")
        if soft is None:
            return loss
        taught = self._cross_entropy(logits / self.temperature, soft, "sum") * self.temperature**2
        return (1 - self.weight) * loss + self.weight * taught

    def _cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        if self.classes:
            return functional.cross_entropy(logits, targets, reduction=reduction)
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
