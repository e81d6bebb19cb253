"""Compiling and precision are as asked for, or the reason says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millrace import TorchCandidate
from training.hardware import Hardware

Fit = Callable[..., Any]


def test_what_cannot_be_compiled_is_fitted_uncompiled_and_says_why(
    fit: Fit, mlp: TorchCandidate, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning_fabric  # noqa: F401  # it wraps torch.compile as it finds it: first, then ours
    import torch

    def no_compiler(module: Any) -> Any:
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler.\nmore")

    monkeypatch.setattr(torch, "compile", no_compiler)  # the real one takes a minute to find that out
    found = fit(replace(mlp, compile=True))
    assert "not compiled: RuntimeError: backend='inductor' raised: InvalidCxxCompiler: No working" in found.reason
    assert found.predict_proba(rows[0]).tobytes() == fit(mlp).predict_proba(rows[0]).tobytes()


def test_a_compiled_network_is_called_and_its_weights_keep_their_names(
    fit: Fit, mlp: TorchCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning_fabric  # noqa: F401  # as above
    import torch

    graphs, compile_ = [], torch.compile

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(torch.is_grad_enabled())
        return graph.forward

    # Dynamo with a backend of ours: inductor's C++ takes a minute; tests/gpu compiles in full.
    monkeypatch.setattr(torch, "compile", lambda module, **others: compile_(module, backend=count))
    compiled, plain = fit(replace(mlp, compile=True)), fit(mlp)
    assert "not compiled" not in compiled.reason
    assert {True, False} <= set(graphs)
    assert compiled.curves["fit_loss"] == pytest.approx(plain.curves["fit_loss"], abs=1e-6)
    assert list(compiled.module.state_dict()) == list(plain.module.state_dict())


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(fit: Fit, mlp: TorchCandidate) -> None:
    import torch

    seen: set[torch.dtype] = set()

    def module(inputs: Any) -> Any:
        built = mlp.module(inputs)
        built.hidden[0].register_forward_hook(lambda *given: seen.add(given[2].dtype) if built.training else None)
        return built

    cpu = Hardware(device="cpu")
    found = fit(replace(mlp, module=module, precision="bf16"), hardware=cpu)
    assert seen == {torch.bfloat16}
    assert found.module.last.weight.dtype == torch.float32
    assert found.reason.startswith("cpu, bfloat16")
    np.testing.assert_allclose(found.curves["fit_loss"], fit(mlp).curves["fit_loss"], atol=0.02)
