"""On a GPU a network learns what it learns on the CPU, in each precision and strategy, and tells what the card did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace import TorchCandidate
from millrace.errors import TrainingError
from training.hardware import Hardware

pytestmark = pytest.mark.gpu
Fit = Callable[..., Any]
CPU, GPU = Hardware(device="cpu", threads=4), Hardware(device="cuda")
_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second by the vendor's datasheets."""


def test_auto_takes_the_gpu_and_says_so(fit: Fit, mlp: TorchCandidate) -> None:
    assert fit(replace(mlp, precision="auto"), epochs=1).reason.startswith("cuda, ")


def test_float32_has_the_cpus_losses(fit: Fit, mlp: TorchCandidate) -> None:
    cpu, gpu = fit(mlp, hardware=CPU), fit(mlp, hardware=GPU)
    np.testing.assert_allclose(gpu.curves["fit_loss"], cpu.curves["fit_loss"], atol=1e-3)
    assert {parameter.device.type for parameter in gpu.module.parameters()} == {"cpu"}


def test_bfloat16_comes_near_the_cpus_losses(fit: Fit, mlp: TorchCandidate) -> None:
    cpu, gpu = fit(mlp, hardware=CPU), fit(replace(mlp, precision="bf16"), hardware=GPU)
    np.testing.assert_allclose(gpu.curves["watch_loss"], cpu.curves["watch_loss"], atol=0.02)


def test_the_curves_tell_the_cards_memory(fit: Fit, mlp: TorchCandidate) -> None:
    assert min(fit(mlp, hardware=GPU).curves["gpu_memory_mb"]) > 0


def test_a_compiled_network_has_the_losses_of_one_that_is_not(fit: Fit, mlp: TorchCandidate) -> None:
    compiled, plain = fit(replace(mlp, compile=True), hardware=GPU), fit(mlp, hardware=GPU)
    assert "not compiled" not in compiled.reason
    np.testing.assert_allclose(compiled.curves["fit_loss"], plain.curves["fit_loss"], atol=1e-3)


def test_activations_computed_again_have_the_same_losses(fit: Fit, mlp: TorchCandidate) -> None:
    again, plain = fit(replace(mlp, checkpoint_activations=True), hardware=GPU), fit(mlp, hardware=GPU)
    np.testing.assert_allclose(again.curves["fit_loss"], plain.curves["fit_loss"], atol=1e-4)


def test_sharded_over_one_process_it_has_the_same_losses(
    fit: Fit, mlp: TorchCandidate, rows: Any, tmp_path: Path
) -> None:
    import torch
    from torch import distributed

    from training.hardware import Chosen
    from training.network.fit import _recipe
    from training.network.group import Group, join
    from training.network.run import run
    from training.network.task import Task

    plain = fit(mlp, hardware=GPU).curves["fit_loss"]
    torch.manual_seed(1)
    module, recipe = mlp.module([None] * 20), _recipe(mlp, None, classes=0, seed=1)
    join(Group(), "cuda", meeting=(tmp_path / "meeting").as_uri())
    try:
        task = Task(recipe, Chosen("cuda", "32", "fsdp", ""), module, *rows, None, 18_000, 1)
        found = run(task, Group(), tmp_path / "kept", resume=False)
    finally:
        distributed.destroy_process_group()
    np.testing.assert_allclose(found.curves["fit_loss"], plain, atol=1e-3)
    assert {value.device.type for value in found.weights.values()} == {"cpu"}


def test_a_loss_that_is_no_number_stops_within_a_step(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    from training.network import fit_torch

    X, y = rows[0].copy(), rows[1]
    X[:] = np.inf
    with pytest.raises(TrainingError, match="became nan in epoch 1, batch 1"):
        partial(fit_torch, mlp, (), X, y)(params={}, seed=1, hardware=GPU)


def test_a_fit_is_continued_from_its_checkpoint(fit: Fit, mlp: TorchCandidate, tmp_path: Path) -> None:
    whole = fit(mlp, hardware=GPU, checkpoints=tmp_path)
    again = fit(mlp, hardware=GPU, checkpoints=tmp_path, resume=True)
    assert "continued at epoch 4" in again.reason
    assert again.module.last.weight.equal(whole.module.last.weight)


def test_throughput_is_told(fit: Fit, mlp: TorchCandidate, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows a second, and the share of the card's peak in bfloat16 where the peak is known."""
    import torch

    candidate = replace(mlp, precision="bf16", batch_size=8_192)
    started = time.perf_counter()
    found = fit(candidate, params={"width": 2_048, "depth": 6}, epochs=5, hardware=GPU)
    rate = float(np.median(found.curves["rows_per_second"][1:]))
    weights = sum(parameter.numel() for parameter in found.module.parameters())
    name = torch.cuda.get_device_name(0)
    peak = next((peak for card, peak in _PEAKS.items() if card in name), None)
    share = f", {6 * weights * rate / peak:.1%} of its peak" if peak else ""
    with capsys.disabled():
        print(f"\n{name}: {rate:,.0f} rows/s of {weights:,} weights{share} ({time.perf_counter() - started:.1f} s)")
    assert rate > 0
