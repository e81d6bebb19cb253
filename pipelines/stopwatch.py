"""Seconds by stage, for the summary at the end of long work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the wall-clock seconds of each stage by name."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The time that the body takes counts for this stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, and `total` since the watch was made, to a hundredth."""
        stages = self._seconds | {"total": time.monotonic() - self._began}
        return {name: round(value, 2) for name, value in stages.items()}
