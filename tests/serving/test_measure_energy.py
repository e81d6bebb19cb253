"""Reading energy counters, in a folder made like the system's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.measure.energy import Energy, Meter, energy_of, open_meter

RANGE = 1_000_000_000


def domain(powercap: Path, place: str, name: str, microjoules: int = 0) -> Path:
    """One counter, as Linux shows it."""
    folder = powercap / place
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def add(folder: Path, joules: float) -> None:
    """What the processor uses."""
    counter = folder / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + round(1e6 * joules)) % RANGE}\n")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The counter of one processor, which is about to start again at 0."""
    return domain(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)


def opened(powercap: Path) -> Meter:
    """The meter of a folder that has one."""
    meter, why = open_meter(powercap)
    assert meter is not None, why
    return meter


def test_a_counter_that_starts_again_goes_on(tmp_path: Path, package: Path) -> None:
    meter = opened(tmp_path)
    add(package, 3)
    assert meter.joules() == pytest.approx(3)


def test_what_was_used_adds_up(tmp_path: Path, package: Path) -> None:
    meter = opened(tmp_path)
    for _ in range(5):
        add(package, 600)
        meter.joules()
    assert meter.joules() == pytest.approx(3_000)


def test_packages_and_their_memory_count_once(tmp_path: Path) -> None:
    counted = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:1": "dram"}
    within = {"intel-rapl:0:0": "core", "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
    folders = [domain(tmp_path, place, name) for place, name in (counted | within).items()]
    (tmp_path / "intel-rapl").mkdir()
    meter = opened(tmp_path)
    for folder in folders:
        add(folder, 1)
    assert meter.joules() == pytest.approx(3)


def test_a_machine_without_counters_is_told(tmp_path: Path) -> None:
    assert open_meter(tmp_path / "absent") == (
        None,
        f"this machine shows no energy counters of its processors (looked in {tmp_path / 'absent'})",
    )


def test_a_counter_that_may_not_be_read_is_told(tmp_path: Path, package: Path) -> None:
    (package / "energy_uj").unlink()
    (package / "energy_uj").mkdir()
    meter, why = open_meter(tmp_path)
    assert meter is None
    assert "cannot be read: IsADirectoryError" in why


def test_a_counter_that_holds_no_number_is_told(tmp_path: Path, package: Path) -> None:
    (package / "energy_uj").write_text("much\n")
    assert "cannot be read: ValueError" in open_meter(tmp_path)[1]


def used(powercap: Path, package: Path, work: Callable[[], None], *, idle_watts: float = 20.0) -> Energy:
    """The energy of three seconds of work on a machine that draws `idle_watts`; `work` does what is beyond that."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        add(package, idle_watts * seconds)

    def working() -> None:
        sleep(3)
        work()

    return energy_of(working, opened(powercap), clock=lambda: now[0], sleep=sleep)


def test_idling_is_taken_off(tmp_path: Path, package: Path) -> None:
    found = used(tmp_path, package, lambda: add(package, 7))
    assert found.joules == pytest.approx(7)


def test_what_cannot_be_told_from_idling_is_unmeasured(tmp_path: Path, package: Path) -> None:
    assert used(tmp_path, package, lambda: add(package, -1)) == Energy(
        None, "the processors drew no more than idle ones, as far as this machine's counters tell"
    )


def test_a_counter_that_vanishes_meanwhile_leaves_it_unmeasured(tmp_path: Path, package: Path) -> None:
    before = package / "energy_uj"

    def vanish() -> None:
        before.write_text("\n")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    now = [0.0]
    assert energy_of(vanish, opened(tmp_path), clock=lambda: now[0], sleep=sleep).why.endswith("stopped answering")


def test_what_the_work_raises_is_raised(tmp_path: Path, package: Path) -> None:
    def fails() -> None:
        raise OSError("the model's own")

    with pytest.raises(OSError, match="the model's own"):
        energy_of(fails, opened(tmp_path), sleep=lambda seconds: None)


def test_the_figure_is_that_of_a_thousand_predictions() -> None:
    assert Energy(5.0).per_1000(2_500) == pytest.approx(2.0)
    assert Energy(None, "why").per_1000(2_500) is None
