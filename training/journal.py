"""Calls that could not be made, kept on disk until they can be: in their order, with the files that they hand over.

    <folder>/<when>-<which>/calls.jsonl    a call a line, each on disk before the next
                            <number>/      the files of a call, copied as they were

Whoever writes or replays a journal holds its lock, which ends with the process. What a call means is its maker's
business: this module knows nothing of MLflow.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

Call = dict[str, Any]
"""A call as JSON. Its value `folder`, if it has one, is the path of a folder of files."""

_CALLS = "calls.jsonl"


class Journal:
    """One journal, held by this process until it is closed or thrown away."""

    def __init__(self, folder: Path, file: TextIO) -> None:
        self.folder, self._file = folder, file

    @classmethod
    def begin(cls, folder: Path) -> Journal:
        """A new one below `folder`."""
        own = folder / f"{time.time_ns():020}-{secrets.token_hex(4)}"
        own.mkdir(parents=True)
        held = cls._held(own)
        if held is None:
            raise BlockingIOError(f"{own} was taken by another process as soon as it was made")
        return held

    @classmethod
    def left(cls, folder: Path) -> Iterator[Journal]:
        """Those below `folder` that no living process holds, the oldest first."""
        for own in sorted(folder.iterdir()) if folder.is_dir() else ():
            held = cls._held(own) if own.is_dir() else None
            if held is not None:
                yield held

    @classmethod
    def _held(cls, own: Path) -> Journal | None:
        try:
            file = (own / _CALLS).open("a+")
        except FileNotFoundError:  # another process has just made its calls and thrown it away
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (own / _CALLS).exists():
                return cls(own, file)
        except BlockingIOError:
            pass
        file.close()
        return None

    def write(self, call: Call) -> None:
        """Add a call; it and its files outlive this process from here on."""
        if "folder" in call:
            kept = self.folder / secrets.token_hex(8)
            shutil.copytree(call["folder"], kept)
            call = call | {"folder": kept.name}
        self._file.write(json.dumps(call) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def calls(self) -> Iterator[Call]:
        """The calls in their order; a last one that its writer did not finish is none."""
        for line in (self.folder / _CALLS).read_text().splitlines():
            try:
                call: Call = json.loads(line)
            except ValueError:
                return
            yield call | {"folder": str(self.folder / call["folder"])} if "folder" in call else call

    def close(self) -> None:
        """Let it go: another process may take it."""
        self._file.close()

    def discard(self) -> None:
        """Throw it away: its calls have been made."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()
