"""What a model costs to serve: latency of one row, resident memory, size on disk. Measured, not estimated.

Each bundle is measured in a fresh process of its own, along the serving path: plain values → contract → engine. The
figures are judged elsewhere (training's gate); this module knows nothing of budgets.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from millrace.errors import BundleError
from millrace.settings import Settings

_WARM_UP = 200
_TIMEOUT_S = 300


class Cost(msgspec.Struct, frozen=True):
    """`p50_ms` and `p99_ms`: milliseconds to encode and predict one row, model and caches warm.

    `memory_mb`: resident memory (10⁶ bytes) that the process gained by opening this bundle, predicting one row
    at a time and one batch of all rows. ONNX Runtime, numpy and Millrace were already loaded, so their share (which
    every server has once, however many models it serves) is not counted; what only this model needs, such as
    scikit-learn for a native one, is. `bundle_mb`: size on disk (10⁶ bytes) without the reference sample.
    """

    p50_ms: float
    p99_ms: float
    memory_mb: float
    bundle_mb: float


class _Order(msgspec.Struct, frozen=True):
    """What the measuring process is told, on its standard input."""

    folder: str
    public_key: bytes
    rows: list[list[Any]]
    calls: int
    threads: int


def measure(bundle_folder: Path, settings: Settings, *, rows: Sequence[Sequence[Any]], calls: int = 2_000) -> Cost:
    """Measure the bundle with these rows (values in the contract's order), predicted one at a time `calls` times.

    Raises `BundleError` when the bundle cannot be opened or does not predict them, or when it takes longer than five
    minutes.
    """
    if not rows:
        raise BundleError(f"The bundle {bundle_folder} cannot be measured without rows.")
    from millrace.keys import public_key

    key = public_key(settings).public_bytes_raw()
    order = _Order(str(bundle_folder.absolute()), key, [list(row) for row in rows], calls, settings.threads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serving.measure"], input=msgspec.msgpack.encode(order), capture_output=True,
            timeout=_TIMEOUT_S, check=False, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"Measuring {bundle_folder} took longer than {_TIMEOUT_S} s.") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"]
        raise BundleError(f"The bundle {bundle_folder} could not be measured.", looked=f"The process said: {said[-1]}")
    return msgspec.msgpack.decode(done.stdout, type=Cost)


def _measure_here(order: _Order) -> Cost:
    """In the fresh process: open, warm, time, weigh."""
    import onnxruntime  # noqa: F401  # loaded before the first weighing, since every server has it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from millrace.bundle import open_bundle
    from millrace.engine import open_engine

    key = Ed25519PublicKey.from_public_bytes(order.public_key)
    before = _resident()
    bundle = open_bundle(Path(order.folder), public_key=key)
    contract, engine = bundle.contract, open_engine(bundle, threads=order.threads)
    rows = [[row] for row in order.rows]
    for index in range(min(_WARM_UP, order.calls)):
        engine.predict(contract.encode_rows(rows[index % len(rows)]))
    seconds = []
    for index in range(order.calls):
        row = rows[index % len(rows)]
        started = time.perf_counter()
        engine.predict(contract.encode_rows(row))
        seconds.append(time.perf_counter() - started)
    engine.predict(contract.encode_rows(order.rows))
    gc.collect()
    memory = max(_resident() - before, 0) / 1e6
    seconds.sort()
    p50, p99 = (1e3 * seconds[min(int(share * len(seconds)), len(seconds) - 1)] for share in (0.50, 0.99))
    return Cost(p50_ms=p50, p99_ms=p99, memory_mb=memory, bundle_mb=bundle.size_mb)


def _resident() -> int:
    import psutil

    resident: int = psutil.Process().memory_info().rss
    return resident


def _main() -> None:
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Order)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_measure_here(order)))


if __name__ == "__main__":
    _main()
