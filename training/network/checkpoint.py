"""Where a fit stands, kept on disk so that a killed one continues: written aside, flushed, then renamed.

A file is found again by its fit's digests; it holds tensors and plain values and is opened with `weights_only`, so
nothing in it is run. This module knows files and the format, not how the state is made or used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from millrace.errors import TrainingError, first_line
from training.network.group import Group

EVERY_SECONDS = 10.0
"""About how much work lies between two checkpoints within an epoch; what a kill costs at most, beside the start."""
_PROBE = 8
_FORMAT = b"millrace checkpoint 1 "


class Checkpoints:
    """The checkpoint of one fit in `folder`, one of possibly many there."""

    def __init__(self, folder: Path, name: str, digests: dict[str, str]) -> None:
        self._name, self._digests = name, digests
        digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
        self.file = folder / f"{name}-{digest[:16]}.ckpt"

    def write(self, state: dict[str, Any]) -> None:
        """Replace the fit's checkpoint; after a crash there is the old one or the new one, whole.

        Raises `TrainingError` when it cannot be written.
        """
        aside = self.file.with_suffix(".writing")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(_packed({"digests": self._digests} | state))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.file)
            _flush_names(self.file.parent)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise TrainingError(
                f"The checkpoint of {self._name!r} cannot be written: {first_line(error)}.",
                looked=f"It was to be {self.file}.",
                todo="Make room there, then train again with --resume.",
            ) from error

    def read(self) -> tuple[dict[str, Any] | None, str]:
        """The fit's checkpoint or None, and why it is None."""
        if not self.file.exists():
            return None, self._others()
        try:
            state = _unpacked(self.file)
        except Exception as error:  # a file of others makes torch raise errors of many kinds; the fit starts anew
            return None, f"started anew: the checkpoint {self.file.name} is damaged ({first_line(error)})"
        return state, ""

    def remove(self) -> None:
        """Forget the fit's checkpoint."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self.file.unlink()

    def _others(self) -> str:
        """Why the candidate's other checkpoints in the folder are not continued."""
        reasons = []
        for path in sorted(self.file.parent.glob(f"{self._name}-{'?' * 16}.ckpt")):
            try:
                found = _unpacked(path)["digests"]
                other = [part for part, digest in self._digests.items() if found.get(part) != digest]
                reasons.append(f"{path.name} has other {' and other '.join(other)}")
            except Exception as error:  # as in `read`
                reasons.append(f"{path.name} is damaged ({first_line(error)})")
        return f"started anew: the checkpoint {'; '.join(reasons)}" if reasons else ""


def _packed(state: dict[str, Any]) -> bytes:
    """A line with the format and a digest, then what torch writes.

    Torch checks nothing itself: of 600 files with one flipped bit it read 467 as other numbers, without an error.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return _FORMAT + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _unpacked(path: Path) -> dict[str, Any]:
    head, _, payload = path.read_bytes().partition(b"\n")
    if head != _FORMAT + hashlib.sha256(payload).hexdigest().encode():
        raise ValueError("its digest or its format is another")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    return state


class Pace:
    """After which steps a checkpoint is due: about every `EVERY_SECONDS`, counted in steps, alike on all processes."""

    def __init__(self, group: Group) -> None:
        self._group, self._steps, self._every = group, 0, 0

    def due(self, seconds: float) -> bool:
        """Called after each step with the seconds that the steps so far took."""
        self._steps += 1
        if self._steps == _PROBE:
            self._every = self._group.from_first(max(1, int(EVERY_SECONDS / max(seconds / _PROBE, 1e-6))))
        return self._every > 0 and self._steps % self._every == 0


def _flush_names(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
