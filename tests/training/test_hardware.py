"""What a network is fitted on is chosen with a reason, and what is not there is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from millrace import TorchCandidate
from millrace.errors import TrainingError, UseCaseError
from training import hardware
from training.hardware import Hardware, chosen, describe_machine

MLP = TorchCandidate("mlp", lambda inputs: None)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torch as if the machine had so many GPUs: gpus(count, bf16)."""

    def pretend(count: int, bf16: bool = True) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)

    return pretend


def test_without_a_gpu_it_is_the_cpu_in_float32(gpus: Any) -> None:
    gpus(0)
    found = chosen(Hardware(), MLP)
    assert (found.device, found.precision, found.strategy) == ("cpu", "32", "single")
    assert found.reason == "cpu, float32: torch finds no GPU on this machine"


def test_with_a_gpu_it_is_the_gpu_in_bfloat16(gpus: Any) -> None:
    gpus(1)
    found = chosen(Hardware(), MLP)
    assert (found.device, found.precision) == ("cuda", "bf16")
    assert found.reason == "cuda, bfloat16: Some GPU, this machine has it"


def test_a_gpu_without_bfloat16_computes_in_float32(gpus: Any) -> None:
    gpus(1, bf16=False)
    found = chosen(Hardware(), MLP)
    assert found.precision == "32"
    assert "no bfloat16" in found.reason


def test_asking_for_the_cpu_gets_it_beside_a_gpu(gpus: Any) -> None:
    gpus(1)
    assert chosen(Hardware(device="cpu"), MLP).reason == "cpu, float32: asked for"


def test_asking_for_a_gpu_that_is_not_there_is_refused(gpus: Any) -> None:
    gpus(0)
    with pytest.raises(TrainingError, match="on a GPU was asked for, and torch finds none") as caught:
        chosen(Hardware(device="cuda"), MLP)
    assert "--device cpu" in caught.value.todo


def test_more_processes_than_gpus_are_refused(gpus: Any) -> None:
    gpus(2)
    with pytest.raises(TrainingError, match="4 processes were asked for"):
        chosen(Hardware(device="cuda", processes=4), MLP)


def test_processes_of_torchrun_are_counted_over_all_machines(gpus: Any) -> None:
    gpus(2)
    found = chosen(Hardware(), MLP, joined=8)
    assert (found.device, found.strategy) == ("cuda", "ddp")
    assert "8 processes" in found.reason


def test_the_candidates_precision_and_strategy_are_taken() -> None:
    fsdp = TorchCandidate("mlp", lambda inputs: None, precision="bf16", strategy="fsdp")
    found = chosen(Hardware(device="cpu", processes=2), fsdp)
    assert (found.precision, found.strategy) == ("bf16", "fsdp")
    assert "2 processes share each batch (fsdp)" in found.reason


@pytest.mark.parametrize("wrong", [{"device": "tpu"}, {"processes": 0}, {"threads": 0}])
def test_impossible_hardware_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UseCaseError, match="Hardware"):
        Hardware(**wrong)


def test_the_machine_is_described_in_plain_values_without_importing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = describe_machine()
    assert found["cores"] >= 1
    assert found["memory_mb"] > 100
    assert found["cpu"]
    assert "torch" not in found


def test_gpus_are_named_by_the_drivers_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(hardware, "_GPUS", tmp_path)
    (tmp_path / "0000:01").mkdir()
    (tmp_path / "0000:01" / "information").write_text("Model: \t\t NVIDIA A100\nIRQ: 5\n")
    assert describe_machine()["gpus"] == ["NVIDIA A100"]
