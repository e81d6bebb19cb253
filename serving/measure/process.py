"""Starts the processes that measure a bundle, hears their figures, and says what went wrong when there are none.

It opens no model itself: a model that crashes, hangs or eats the memory takes its own process with it and no other.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL
from statistics import median
from typing import Any

import msgspec

from millrace.errors import BundleError
from millrace.keys import public_key
from millrace.settings import Settings
from serving.measure.cost import Cost
from serving.measure.energy import POWERCAP
from serving.measure.messages import Opened, Order, Refused

CALLS = 10_000
LIMIT_S = 10.0
OPENINGS = 3
TIMEOUT_S = 300.0
_ROOT = Path(__file__).resolve().parents[2]


def measure(
    bundle_folder: Path,
    settings: Settings,
    *,
    rows: Sequence[Sequence[Any]],
    calls: int = CALLS,
    limit_s: float = LIMIT_S,
    timeout_s: float = TIMEOUT_S,
    powercap: Path = POWERCAP,
) -> Cost:
    """Measure the bundle with these rows: values in the contract's order, lists where an input is array-valued.

    One row and 100 rows are predicted `calls` times each, or as often as about `limit_s` seconds in all allow: a
    slower model or a busy machine gets fewer, and the cost's notes say so. Its cold start is that of three processes if
    two more openings fit into half of `limit_s`, else of one. Raises `BundleError` when the bundle cannot be opened or
    does not predict the rows, and when a process is killed or takes longer than `timeout_s` seconds.
    """
    if not rows:
        raise BundleError(f"The bundle {bundle_folder} cannot be measured without rows.")
    order = Order(
        folder=str(bundle_folder.absolute()), public_key=public_key(settings).public_bytes_raw(),
        rows=[list(row) for row in rows], calls=calls, limit_s=limit_s, threads=settings.threads,
        powercap=str(powercap),
    )  # fmt: skip
    first = _ask(order, timeout_s)
    if first.cost is None:
        raise BundleError(f"The process that measured {bundle_folder} gave no figures.")
    return msgspec.structs.replace(first.cost, cold_start_ms=_cold_start(order, first, timeout_s))


def _cold_start(order: Order, first: Opened, timeout_s: float) -> float:
    """The median of three openings, each in a fresh process, or what the first took."""
    more = OPENINGS - 1 if (OPENINGS - 1) * first.seconds <= order.limit_s / 2 else 0
    again = msgspec.structs.replace(order, calls=0)
    return median([first.cold_start_ms, *(_ask(again, timeout_s).cold_start_ms for _ in range(more))])


def _ask(order: Order, timeout_s: float) -> Opened:
    """Let a fresh process carry out the order."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serving.measure.child"], input=msgspec.msgpack.encode(order, enc_hook=_plain),
            capture_output=True, timeout=timeout_s, check=False, cwd=_ROOT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"Measuring the bundle {order.folder} took longer than {timeout_s:g} s.", looked="Its process was ended."
        ) from error
    if done.returncode or not done.stdout:
        raise _failed(order, done)
    answer = msgspec.msgpack.decode(done.stdout, type=Opened | Refused)
    if isinstance(answer, Refused):
        raise BundleError(
            f"The bundle {order.folder} could not be measured: {answer.what}", looked=answer.looked, todo=answer.todo
        )
    return answer


def _failed(order: Order, done: subprocess.CompletedProcess[bytes]) -> BundleError:
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
    looked = f"Its process ended with {done.returncode} and said last: {said[-1]}"
    if done.returncode < 0:
        looked = f"Its process was ended by signal {-done.returncode}"
        looked += ", which is how a system ends what takes its last memory." if done.returncode == -SIGKILL else "."
    return BundleError(f"The bundle {order.folder} could not be measured.", looked=looked)


def _plain(value: Any) -> Any:
    """A numpy number or array as plain values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise BundleError(f"A row to measure with holds a {type(value).__name__}, which no request can.")
