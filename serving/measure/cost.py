"""The figures of one model's cost, and what has to be said about them. It does not know how they came about."""

from __future__ import annotations

import msgspec

from millrace.budget import COST_METRICS


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle costs; milliseconds, MB of 10⁶ bytes, joules.

    `p50_ms`, `p99_ms`: one row from checked request to answer, model and caches warm; `p50_ms_100`, `p99_ms_100`: 100
    rows at once. Each is the median over ten blocks of calls of the block's quantile, less the time that other
    processes held the core; `calls` and `calls_100` is how many calls those blocks hold.

    `memory_mb`: resident memory that the process gained by opening this bundle and answering all those calls and one
    of every row at once. ONNX Runtime, numpy and Millrace were loaded before, so their share (which every server has
    once, however many models it serves) is not counted; what only this model needs, such as scikit-learn for a native
    one, is. What the allocator keeps for later is not counted either: it is returned before each weighing.

    `cold_start_ms`: from opening the bundle (verify, load, warm) to its first answer in a fresh process, its files in
    the page cache, other processes' share taken off; the interpreter's start and the same shared imports come before.
    The median of three processes, or one where opening takes seconds.

    `bundle_mb`: size on disk without the reference sample. `joules_per_1000`: energy of 1,000 predictions in batches
    of 100, less what the machine draws when idle; None where it cannot be measured. `remarks` says, by metric, why a
    figure is missing or what weakens it.

    `scores`: what each of the rows that it was measured with was answered, a value a row or one a class.
    """

    p50_ms: float
    p99_ms: float
    p50_ms_100: float
    p99_ms_100: float
    memory_mb: float
    bundle_mb: float
    cold_start_ms: float
    joules_per_1000: float | None = None
    calls: int
    calls_100: int
    remarks: dict[str, str] = {}
    scores: list[list[float]] = []

    def figures(self) -> dict[str, float]:
        """Every measured metric of `COST_METRICS`, by name; what could not be measured is absent."""
        found = {name: getattr(self, name) for name in COST_METRICS}
        return {name: value for name, value in found.items() if value is not None}

    def notes(self) -> dict[str, str]:
        """By metric: why it is unmeasured, or what a reader has to know of its figure; most have none."""
        return dict(self.remarks)
