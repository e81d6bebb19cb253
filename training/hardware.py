"""The machine a training runs on: what the caller asks for, what is chosen and why, what it is.

It knows devices and cores; it does not know models, data or how a fit uses what was chosen.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from millrace.candidates import TorchCandidate
from millrace.errors import TrainingError
from millrace.source import require

_CPU_INFO = Path("/proc/cpuinfo")
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a training may use. `processes` counts local worker processes, `threads` those of each process."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        known = ("auto", "cpu", "cuda")
        require("Hardware", self.device, self.device in known, f"device must be one of {', '.join(known)}")
        require("Hardware", str(self.processes), self.processes >= 1, "processes must be at least 1")
        require("Hardware", str(self.threads), self.threads >= 1, "threads must be at least 1")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a network is fitted on, and why. `strategy` is how processes share the work: `single` is one process."""

    device: Literal["cpu", "cuda"]
    precision: Literal["32", "bf16"]
    strategy: Literal["single", "ddp", "fsdp"]
    reason: str


def chosen(hardware: Hardware, candidate: TorchCandidate, *, joined: int = 0) -> Chosen:
    """The device, precision and strategy for a network; imports torch.

    `joined` is the number of processes when they were started from outside (torchrun), on this machine or several.
    `auto` takes a GPU where there is one. bf16 is what `auto` computes in on a GPU that has it in hardware, never on a
    CPU, where it was slower than float32 on small networks. Raises `TrainingError` when CUDA is asked for and absent,
    or when there are fewer GPUs than processes.
    """
    device, why = _device(hardware if not joined else replace(hardware, processes=1))
    processes = joined or hardware.processes
    precision, why_precision = _precision(device, candidate)
    strategy: Literal["single", "ddp", "fsdp"] = "single" if processes == 1 else candidate.strategy
    parts = [f"{device}, {'bfloat16' if precision == 'bf16' else 'float32'}: {why}", why_precision]
    if strategy != "single":
        parts.append(f"{processes} processes share each batch ({strategy})")
    return Chosen(device, precision, strategy, "; ".join(part for part in parts if part))


def _device(hardware: Hardware) -> tuple[Literal["cpu", "cuda"], str]:
    if hardware.device == "cpu":
        return "cpu", "asked for"
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus and hardware.device == "auto":
        return "cpu", "torch finds no GPU on this machine"
    if not gpus:
        raise TrainingError(
            "Training on a GPU was asked for, and torch finds none.",
            looked=f"torch {torch.__version__} is built {'for CUDA' if torch.version.cuda else 'without CUDA'}.",
            todo="Train with --device cpu, or install torch built for CUDA on a machine with an NVIDIA GPU.",
        )
    if hardware.processes > gpus:
        raise TrainingError(
            f"{hardware.processes} processes were asked for, each with a GPU of its own.",
            looked=f"This machine has {gpus}.",
            todo=f"Train with --processes {gpus}, or with --device cpu.",
        )
    why = "asked for" if hardware.device == "cuda" else "this machine has it"
    return "cuda", f"{torch.cuda.get_device_name(0)}, {why}"


def _precision(device: Literal["cpu", "cuda"], candidate: TorchCandidate) -> tuple[Literal["32", "bf16"], str]:
    if candidate.precision != "auto":
        return candidate.precision, "precision as the candidate says"
    if device == "cpu":
        return "32", ""
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", ""
    return "32", "this GPU has no bfloat16"


def describe_machine() -> dict[str, Any]:
    """The machine in plain values, for a run's record; torch is asked only where it is loaded already (2 s)."""
    import psutil

    machine: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "gpus": _gpu_names(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if (torch := sys.modules.get("torch")) is not None:
        machine |= {"torch": str(torch.__version__), "torch_threads": torch.get_num_threads()}
    return machine


def _cpu_name() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    """By the driver's own files, without torch; by torch where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    names = []
    for file in sorted(_GPUS.glob("*/information")):
        lines = (line.partition(":") for line in file.read_text().splitlines())
        names += [value.strip() for name, _, value in lines if name.strip() == "Model"]
    return names
