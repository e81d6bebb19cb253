"""Energy of what this machine's processors do: RAPL's counters as Linux shows them under /sys/class/powercap.

It counts the processor packages and, where they are counted apart, their memory. GPUs are not read: models predict on
the CPU, so a GPU's meter would show nothing but its idling. It knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import isnan, nan
from pathlib import Path

from millrace.errors import first_line

POWERCAP = Path("/sys/class/powercap")
IDLE_SECONDS = 1.0


class Meter:
    """Adds up the energy counters of some domains; each counter starts again at 0 beyond its range.

    It has to be read once in a counter's range at least, which at 200 W is every 20 minutes.
    """

    def __init__(self, domains: list[Path]) -> None:
        """Each domain is a folder with `energy_uj` and `max_energy_range_uj`; `OSError` or `ValueError` when one
        cannot be read."""
        self._domains = domains
        self._ranges = [_number(domain / "max_energy_range_uj") for domain in domains]
        self._last = self._read()
        self._used = 0

    def joules(self) -> float:
        """Energy since this meter was made."""
        now = self._read()
        for before, after, beyond in zip(self._last, now, self._ranges, strict=True):
            self._used += after - before if after >= before else after - before + beyond
        self._last = now
        return self._used / 1e6

    def _read(self) -> list[int]:
        return [_number(domain / "energy_uj") for domain in self._domains]


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of some work beyond what the idle machine draws; None, and `why`, when they could not be measured."""

    joules: float | None
    why: str = ""

    def per_1000(self, predictions: int) -> float | None:
        """Joules of 1,000 of the predictions that were the work."""
        return None if self.joules is None else 1_000 * self.joules / predictions


def open_meter(powercap: Path = POWERCAP) -> tuple[Meter | None, str]:
    """The meter of all the machine's processors; or None, and why there is none."""
    domains = sorted(path for path in powercap.glob("intel-rapl:*") if _counts(path))  # AMD's have that name too
    if not domains:
        return None, f"this machine shows no energy counters of its processors (looked in {powercap})"
    try:
        return Meter(domains), ""
    except (OSError, ValueError) as error:  # most systems let only root read them
        return None, f"this machine's energy counters cannot be read: {first_line(error)}"


def energy_of(
    work: Callable[[], None],
    meter: Meter,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Do the work and measure what it took beyond idling, which is measured for half a second before and after it.

    What other processes do meanwhile and did not do in those seconds is counted too: the counters know no processes.
    """

    def idle() -> None:
        sleep(IDLE_SECONDS / 2)

    marks = [(clock(), _reading(meter))]
    for step in (idle, work, idle):
        step()
        marks.append((clock(), _reading(meter)))
    seconds = [later[0] - sooner[0] for sooner, later in pairwise(marks)]
    joules = [later[1] - sooner[1] for sooner, later in pairwise(marks)]
    idle_watts = (joules[0] + joules[2]) / (seconds[0] + seconds[2])
    used = joules[1] - idle_watts * seconds[1]
    if isnan(used):
        return Energy(None, "this machine's energy counters stopped answering")
    if used <= 0:
        return Energy(None, "the processors drew no more than idle ones, as far as this machine's counters tell")
    return Energy(used)


def _reading(meter: Meter) -> float:
    try:
        return meter.joules()
    except (OSError, ValueError):  # a counter that could be read a moment ago
        return nan


def _counts(domain: Path) -> bool:
    """Whether a domain is a processor package, or memory beside one; cores lie within a package, `psys` around all."""
    try:
        name = (domain / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _number(path: Path) -> int:
    return int(path.read_text())
