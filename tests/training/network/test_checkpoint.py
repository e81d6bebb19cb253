"""A killed fit continues to the bits of one that was not, and no other fit's checkpoint is taken for its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace import TorchCandidate
from millrace.errors import TrainingError
from training.network import checkpoint, loop, processes

Fit = Callable[..., Any]

KILLED = """
import os, signal, sys
sys.path[:0] = {places}
from pathlib import Path
import numpy as np
from training.network import checkpoint, loop
import conftest

checkpoint.EVERY_SECONDS = 0.0  # a checkpoint after each step, from the eighth on
steps, take = 0, loop.Loop._take_step

def take_and_die(self, batches, number, meter):
    global steps
    steps += 1
    if steps == 8 + 8 + 3:  # the third of the third epoch's eight
        os.kill(os.getpid(), signal.SIGKILL)
    take(self, batches, number, meter)

loop.Loop._take_step = take_and_die
rows = np.load({rows!r})
candidate = conftest.TorchCandidate("mlp", conftest.build_network, max_epochs=4, batch_size=128)
how = dict(params=dict(dropout=0.3), seed=1, checkpoints=Path({kept!r}))
conftest.fit_torch(candidate, conftest.INPUTS, rows["X"], rows["y"], **how)
"""


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """stopped(steps): from then on a fit is interrupted when it is about to take this many steps."""

    def stop_at(steps: int) -> None:
        take, taken = loop.Loop._take_step, 0

        def counted(self: Any, *given: Any) -> None:
            nonlocal taken
            taken += 1
            if taken == steps:
                monkeypatch.setattr(loop.Loop, "_take_step", take)
                raise KeyboardInterrupt
            take(self, *given)

        monkeypatch.setattr(loop.Loop, "_take_step", counted)

    return stop_at


def weights(found: Any) -> bytes:
    """All of a classifier's weights."""
    return b"".join(value.numpy().tobytes() for value in found.module.state_dict().values())


def test_killed_in_mid_epoch_it_continues_to_the_same_bits(
    fit: Fit, mlp: TorchCandidate, rows: Any, tmp_path: Path, network: Any
) -> None:
    np.savez(tmp_path / "rows.npz", X=rows[0], y=rows[1])
    places = [str(Path(__file__).parent), str(Path.cwd())]
    code = KILLED.format(places=places, rows=str(tmp_path / "rows.npz"), kept=str(tmp_path / "kept"))
    child = processes._context().Process(target=exec, args=(code, {"__name__": "killed"}))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    candidate, params = TorchCandidate("mlp", network, max_epochs=4, batch_size=128), {"dropout": 0.3}
    whole = fit(candidate, params=params)
    continued = fit(candidate, params=params, checkpoints=tmp_path / "kept", resume=True)
    assert "continued at epoch 3, step 3" in continued.reason
    assert weights(continued) == weights(whole)
    assert continued.curves["watch_loss"] == whole.curves["watch_loss"]
    assert continued.curves["fit_loss"] == whole.curves["fit_loss"]


def test_writing_checkpoints_does_not_change_the_fit(fit: Fit, mlp: TorchCandidate, tmp_path: Path) -> None:
    params = {"dropout": 0.3}
    assert weights(fit(mlp, params=params, checkpoints=tmp_path)) == weights(fit(mlp, params=params))
    assert [path.suffix for path in tmp_path.iterdir()] == [".ckpt"]


def test_a_finished_fit_is_not_fitted_again(fit: Fit, mlp: TorchCandidate, tmp_path: Path, stopped: Any) -> None:
    first = fit(mlp, checkpoints=tmp_path)
    stopped(1)
    assert weights(fit(mlp, checkpoints=tmp_path, resume=True)) == weights(first)


def test_without_resume_it_starts_anew(fit: Fit, mlp: TorchCandidate, tmp_path: Path, stopped: Any) -> None:
    fit(mlp, checkpoints=tmp_path)
    stopped(1)
    with pytest.raises(KeyboardInterrupt):
        fit(mlp, checkpoints=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 2}, "has other candidate or seed and other first weights"),
        ({"X": "changed"}, "has other rows and other first weights"),
        ({"params": {"batch_size": 64}}, "has other candidate or seed"),
        ({"params": {"dropout": 0.1}}, "has other candidate or seed"),
    ],
)
def test_another_fits_checkpoint_is_named_and_not_continued(
    fit: Fit, mlp: TorchCandidate, rows: Any, tmp_path: Path, other: dict[str, Any], said: str
) -> None:
    given = other | ({"X": rows[0] + np.float32([1, 0, 0])} if "X" in other else {})
    fit(mlp, checkpoints=tmp_path)
    found = fit(mlp, **given, checkpoints=tmp_path, resume=True)
    assert "started anew: the checkpoint mlp-" in found.reason
    assert said in found.reason
    assert weights(found) == weights(fit(mlp, **given))


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "not ours"])
def test_a_damaged_checkpoint_is_named_and_not_continued(
    fit: Fit, mlp: TorchCandidate, tmp_path: Path, damage: str
) -> None:
    first = fit(mlp, checkpoints=tmp_path)
    (file,) = tmp_path.iterdir()
    held = bytearray(file.read_bytes())
    middle = len(held) // 2
    held[middle] ^= 1
    file.write_bytes({"cut": held[:middle], "flipped": held, "emptied": b"", "not ours": b"a\nb"}[damage])
    found = fit(mlp, checkpoints=tmp_path, resume=True)
    assert weights(found) == weights(first)
    assert "is damaged" in found.reason


def test_a_checkpoint_that_would_run_code_is_not_opened(fit: Fit, mlp: TorchCandidate, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    fit(mlp, checkpoints=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(checkpoint._packed({"digests": Payload()}))
    assert "is damaged" in fit(mlp, checkpoints=tmp_path, resume=True).reason
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_fit_clearly(
    fit: Fit, mlp: TorchCandidate, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="The checkpoint of 'mlp' cannot be written"):
        fit(mlp, checkpoints=tmp_path / "file" / "below")


def test_between_checkpoints_lies_about_the_work_of_ten_seconds() -> None:
    from training.network.group import Group

    pace = checkpoint.Pace(Group())
    due = [step for step in range(1, 100) if pace.due(seconds=0.25 * step)]
    assert due == [40, 80]


def test_accumulated_batches_continue_too(fit: Fit, mlp: TorchCandidate, tmp_path: Path, stopped: Any) -> None:
    candidate = replace(mlp, accumulate=3)
    whole = fit(candidate)
    stopped(5)
    with pytest.raises(KeyboardInterrupt):
        fit(candidate, checkpoints=tmp_path)
    assert weights(fit(candidate, checkpoints=tmp_path, resume=True)) == weights(whole)
