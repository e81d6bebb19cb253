"""The losses are the formulas of their sources."""

from __future__ import annotations

import numpy as np
import pytest

Z = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
TEACHER = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05]])


def softmax(z: np.ndarray) -> np.ndarray:
    """Rows of probabilities."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_distillation_with_classes_is_hintons_formula() -> None:
    import torch

    from training.network.objective import Objective

    objective, y = Objective(3, weight=0.7, temperature=2.0), np.array([0, 1], np.int8)
    found = objective.sum(torch.from_numpy(Z).float(), objective.targets(y), objective.soft_targets(TEACHER))
    hard = -np.log(softmax(Z)[[0, 1], y]).sum()
    soft = -(softmax(np.log(TEACHER) / 2) * np.log(softmax(Z / 2))).sum()
    assert float(found) == pytest.approx(0.3 * hard + 0.7 * 4 * soft, rel=1e-5)


def test_two_classes_and_one_logit_have_the_same_distillation_loss() -> None:
    import torch

    from training.network.objective import Objective

    z, p, y = np.array([0.3, -2.0]), np.array([0.9, 0.2]), np.array([1, 0], np.int8)
    one, two = Objective(0, weight=0.4, temperature=3.0), Objective(2, weight=0.4, temperature=3.0)
    pairs = torch.from_numpy(np.column_stack([np.zeros(2), z])).float()
    single = one.sum(torch.from_numpy(z).float(), one.targets(y), one.soft_targets(p))
    double = two.sum(pairs, two.targets(y), two.soft_targets(np.column_stack([1 - p, p])))
    assert float(single) == pytest.approx(float(double), rel=1e-5)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_teacher_that_is_certain_gives_a_finite_loss(p: float) -> None:
    import torch

    from training.network.objective import Objective

    objective = Objective(0, weight=1.0, temperature=4.0)
    soft = objective.soft_targets(np.array([p]))
    assert torch.isfinite(objective.sum(torch.zeros(1), torch.ones(1), soft))


def test_without_a_teacher_the_loss_is_the_sum_of_the_rows_losses() -> None:
    import torch

    from training.network.objective import Objective

    objective = Objective(3)
    logits, targets = torch.from_numpy(Z).float(), objective.targets(np.array([2, 1], np.int8))
    total = objective.sum(logits, targets, None)
    assert float(total) == pytest.approx(float(objective.row_losses(logits, targets).sum()), rel=1e-6)
