"""What the system says of this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.measure.machine import resident_bytes, waited_by_thread

BLOCKS, BLOCK = 1_000, 50_000


def test_memory_weighs_what_it_holds_and_nothing_once_freed() -> None:
    before = resident_bytes()
    held = [bytes([number % 256]) * BLOCK for number in range(BLOCKS)]
    during = resident_bytes()
    del held
    assert during - before == pytest.approx(BLOCKS * BLOCK, rel=0.05)
    assert resident_bytes() - before < BLOCKS * BLOCK / 10


def test_the_memory_is_read_exactly(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps_rollup"
    smaps.write_text("5555-7fff ---p 00:00 0  [rollup]\nRss:            1680 kB\nPss:             254 kB\n")
    assert resident_bytes(smaps) == 1680 * 1024


def test_without_an_exact_reading_there_is_another(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "absent") == pytest.approx(resident_bytes(), rel=0.2)


def test_waiting_is_the_second_number(tmp_path: Path) -> None:
    schedstat = tmp_path / "schedstat"
    schedstat.write_text("662905 140880 2\n")
    with waited_by_thread(schedstat) as waited:
        assert waited() == 140880


def test_a_system_that_does_not_count_waiting_says_none(tmp_path: Path) -> None:
    with waited_by_thread(tmp_path / "absent") as waited:
        assert waited() == 0
