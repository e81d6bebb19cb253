"""How long work tells what it is at, without knowing who watches."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One stage at a time: it starts with a number of steps, advances, and is done with a note of its result."""

    def start(self, what: str, total: int = 1) -> None:
        """A stage begins; it has `total` steps."""

    def advance(self, note: str = "") -> None:
        """One step of it is done."""

    def done(self, note: str = "", *, failed: bool = False) -> None:
        """It is over, well or (`failed`) not."""
