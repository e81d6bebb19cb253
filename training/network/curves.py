"""What a GPU did during an epoch, where there is one.

It knows the card's counters; it does not know what ran.
"""

from __future__ import annotations

from contextlib import suppress

import torch


def gpu_figures(device: torch.device) -> dict[str, float]:
    """`gpu_memory_mb` at its peak since the last call and `gpu_utilization` in percent now; nothing on a CPU.

    The utilization comes from NVIDIA's management library, and is left out where its Python package is not installed.
    """
    if device.type != "cuda":
        return {}
    figures = {"gpu_memory_mb": torch.cuda.max_memory_allocated(device) / 2**20}
    torch.cuda.reset_peak_memory_stats(device)
    with suppress(Exception):  # no pynvml, or an error of its own, without a base that torch has: no permission, say
        figures["gpu_utilization"] = float(torch.cuda.utilization(device))
    return figures
