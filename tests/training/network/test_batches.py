"""All rows come once an epoch, in batches that processes share without a gap."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1_000, [256, 256, 256, 232]), (530, [256, 274]), (20, [20]), (256, [256])]
)
def test_every_row_comes_once_and_a_small_last_batch_joins_the_one_before(rows: int, sizes: list[int]) -> None:
    import torch

    from training.network.batches import steps

    found = steps(rows, 256, 1, torch.Generator().manual_seed(0))
    assert [len(batch) for (batch,) in found] == sizes
    assert sorted(torch.cat([batch for (batch,) in found]).tolist()) == list(range(rows))


def test_accumulated_batches_are_one_step() -> None:
    import torch

    from training.network.batches import steps

    found = steps(1_000, 100, 4, torch.Generator().manual_seed(0))
    assert [len(step) for step in found] == [4, 4, 2]


@pytest.mark.parametrize("rows", [1, 7, 8])
def test_the_shares_of_a_batch_are_the_batch(rows: int) -> None:
    import torch

    from training.network.batches import share
    from training.network.group import Group

    positions = torch.randperm(rows)
    parts = torch.cat([share(positions, Group(rank, 3)) for rank in range(3)])
    assert sorted(parts.tolist()) == list(range(rows))


def test_a_batch_holds_its_own_rows() -> None:
    import torch

    from training.network.batches import Rows

    X, y = torch.arange(20.0).reshape(10, 2), torch.arange(10.0)
    batch = Rows(X, y, y / 10, device=torch.device("cpu")).at(torch.tensor([7, 2]))
    assert batch.y.tolist() == [7, 2]
    assert batch.X.tolist() == [[14, 15], [4, 5]]
    np.testing.assert_allclose(batch.soft, [0.7, 0.2])
