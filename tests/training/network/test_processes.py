"""Several processes fit the network that one would, and a failure in one of them is told and leaves none behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from millrace import ModelInput, TorchCandidate
from millrace.errors import TrainingError
from millrace.loader import load_use_case
from millrace.settings import Settings
from training.hardware import Hardware

Fit = Callable[..., Any]

CLIP = 0.25
"""Clips some steps and not others: AdamW alone does not tell a gradient from its half."""
TWO = Hardware(device="cpu", processes=2)

USE_CASE = """
from datetime import timedelta
from millrace import Candidate, Label, Population, Source, TorchCandidate, UseCase
from .networks import build

trips = Source("trips", lambda since, until: None, lambda: None, key=("id",))
use_case = UseCase(
    name="lately", question="Late?", sources=(trips,), population=Population(trips),
    label=Label(trips, "late", timedelta(0)), feature_tables=(), feature_repo=lambda source_of: [],
    candidates=(TorchCandidate("net", build, batch_size=128, max_epochs=2),),
)
"""
NETWORKS = """
def build(inputs):
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, X):
            from .numbers import cleaned
            return self.layer(cleaned(X)).squeeze(-1)

    return Network()
"""
ELSEWHERE = """
import torch

def cleaned(X):
    return torch.nan_to_num(X)

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, X):
        return self.layer(cleaned(X)).squeeze(-1)
"""
TORCHRUN = """
    import json, sys
    from dataclasses import replace
    from pathlib import Path
    import numpy as np
    import conftest
    import torch.distributed

    rows, out = np.load(sys.argv[1]), Path(sys.argv[2])
    ddp = conftest.TorchCandidate("mlp", conftest.build_network, max_epochs=3, batch_size=128, learning_rate=0.01)
    ddp = replace(ddp, clip_norm=float(sys.argv[3]))
    said = {}
    for candidate in (ddp, replace(ddp, strategy="fsdp", accumulate=3)):
        for resume in (False, True):
            how = {"params": {}, "seed": 1, "checkpoints": out / "kept", "resume": resume}
            found = conftest.fit_torch(candidate, conftest.INPUTS, rows["X"], rows["y"], **how)
            p = found.predict_proba(rows["X"])[:, 1].tolist()
            said[f"{candidate.strategy} {resume}"] = {"curves": found.curves, "p": p, "reason": found.reason}
    (out / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def torchrun(rows: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes under torchrun says of its fits."""
    out = tmp_path_factory.mktemp("torchrun")
    np.savez(out / "rows.npz", X=rows[0], y=rows[1])
    places = [str(Path(__file__).parent), str(Path.cwd())]
    (out / "script.py").write_text(f"import sys; sys.path[:0] = {places}\n" + textwrap.dedent(TORCHRUN))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*run, out / "script.py", out / "rows.npz", out, str(CLIP)], check=True, timeout=240)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_have_the_losses_of_one(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    clipped = replace(mlp, clip_norm=CLIP)
    one, two = fit(clipped), fit(clipped, hardware=TWO)
    for curve in ("fit_loss", "watch_loss"):
        assert two.curves[curve] == pytest.approx(one.curves[curve], abs=1e-5)
    np.testing.assert_allclose(two.predict_proba(rows[0]), one.predict_proba(rows[0]), atol=1e-4)
    assert "2 processes share each batch (ddp)" in two.reason
    assert not two.module.training


def test_two_processes_continue_to_the_bits_of_two_that_were_not_stopped(
    fit: Fit, mlp: TorchCandidate, rows: Any, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"

    def module(inputs: Sequence[ModelInput], dropout: float) -> Any:
        built, seen = mlp.module(inputs, dropout=dropout), []

        def count(*given: Any) -> None:
            seen.append(1)
            if len(seen) == 14 and stop.exists():  # in the second epoch
                raise RuntimeError("stopped")

        built.last.register_forward_hook(count)
        return built

    given = {"hardware": TWO, "params": {"dropout": 0.3}, "checkpoints": tmp_path / "kept"}
    candidate = replace(mlp, module=module)
    whole = fit(candidate, **given).predict_proba(rows[0])
    stop.touch()
    with pytest.raises(TrainingError, match=r"failed: RuntimeError: (stopped|.*closed)"):
        fit(candidate, **given)
    stop.unlink()
    continued = fit(candidate, **given, resume=True)
    assert "continued at epoch 2, step 1" in continued.reason
    assert continued.predict_proba(rows[0]).tobytes() == whole.tobytes()


@pytest.mark.parametrize(("strategy", "accumulate"), [("ddp", 1), ("fsdp", 3)])
def test_under_torchrun_each_strategy_has_the_losses_of_one_process(
    torchrun: list[dict[str, Any]], fit: Fit, mlp: TorchCandidate, strategy: str, accumulate: int
) -> None:
    alone = fit(replace(mlp, accumulate=accumulate, clip_norm=CLIP)).curves
    for said in torchrun:
        for curve in ("fit_loss", "watch_loss"):
            assert said[f"{strategy} False"]["curves"][curve] == pytest.approx(alone[curve], abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_under_torchrun_every_process_has_the_same_network(torchrun: list[dict[str, Any]], strategy: str) -> None:
    assert torchrun[0][f"{strategy} False"]["p"] == torchrun[1][f"{strategy} False"]["p"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_under_torchrun_a_checkpoint_is_continued(torchrun: list[dict[str, Any]], strategy: str) -> None:
    for said in torchrun:
        assert "continued at epoch 4, step 1" in said[f"{strategy} True"]["reason"]
        assert said[f"{strategy} True"]["p"] == said[f"{strategy} False"]["p"]


def test_a_network_of_a_use_case_is_found_in_other_processes(fit: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "lately"
    folder.mkdir()
    (folder / "use_case.py").write_text(USE_CASE)
    (folder / "networks.py").write_text(NETWORKS)
    (folder / "numbers.py").write_text("import torch\n\ndef cleaned(X):\n    return torch.nan_to_num(X)\n")
    (candidate,) = load_use_case(str(folder), Settings(home=tmp_path)).candidates
    one, two = fit(candidate), fit(candidate, hardware=TWO)
    assert two.curves["fit_loss"] == pytest.approx(one.curves["fit_loss"], abs=1e-5)


def test_a_network_of_a_module_that_others_cannot_import_travels_by_value(
    fit: Fit, mlp: TorchCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = ModuleType("elsewhere")
    exec(ELSEWHERE, vars(elsewhere))
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    candidate = replace(mlp, module=lambda inputs: elsewhere.Network())
    assert fit(candidate, hardware=TWO).curves["fit_loss"] == pytest.approx(fit(candidate).curves["fit_loss"], abs=1e-5)


def test_what_fails_in_a_process_is_told_and_no_process_stays(fit: Fit, mlp: TorchCandidate) -> None:
    with pytest.raises(TrainingError, match="became nan in epoch 1, batch 1") as caught:
        fit(mlp, params={"spoil": "missing"}, hardware=TWO)
    assert "missing input" in caught.value.looked
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("fit-")]


def test_a_process_that_is_killed_ends_the_fit(fit: Fit, mlp: TorchCandidate) -> None:
    def module(inputs: Sequence[ModelInput]) -> Any:
        import torch

        class Killer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.parent = torch.nn.Linear(3, 1), os.getpid()

            def forward(self, X: Any) -> Any:
                if os.getpid() != self.parent and torch.distributed.get_rank() == 1:
                    os.kill(os.getpid(), 9)
                return self.layer(torch.nan_to_num(X)).squeeze(-1)

        return Killer()

    with pytest.raises(TrainingError, match="A process that fitted 'mlp' was ended from outside") as caught:
        fit(replace(mlp, module=module), hardware=TWO)
    assert "Process 2 of 2" in caught.value.looked


def test_a_module_that_cannot_travel_is_refused(fit: Fit, mlp: TorchCandidate) -> None:
    def module(inputs: Sequence[ModelInput]) -> Any:
        built = mlp.module(inputs)
        built.lock = threading.Lock()
        return built

    with pytest.raises(TrainingError, match="cannot be sent to other processes") as caught:
        fit(replace(mlp, module=module), hardware=TWO)
    assert "--processes 1" in caught.value.todo
