"""The circuit breaker before an online store: when it stops asking, and that it heals by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from features.breaker import FAILURES, Breaker, StoreDownError
from features.online_store import Stored
from millrace.errors import FeatureError

ROW: Stored = (1, 1, b"\x90")


@dataclass
class FakeStore:
    """A store that several may open: `broken` makes every read fail; what was done to it is counted."""

    broken: bool = False
    opened: int = 0
    closed: int = 0
    reads: list[Sequence[bytes]] = field(default_factory=list)

    def open(self) -> FakeStore:
        self.opened += 1
        return self

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        self.reads.append(keys)
        if self.broken:
            raise FeatureError("It is down.", looked="Looked there.")
        return [ROW for _ in keys]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def breaker(store: FakeStore) -> Iterator[Breaker]:
    """One that tries again every few milliseconds."""
    breaker = Breaker(store.open, retry_seconds=0.005)
    yield breaker
    breaker.close()


@pytest.fixture
def patient(store: FakeStore) -> Iterator[Breaker]:
    """One that makes no trial within a test."""
    breaker = Breaker(store.open, retry_seconds=600)
    yield breaker
    breaker.close()


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(StoreDownError):
            breaker.read([b"k"])


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.002)


def test_what_the_store_answers_passes(patient: Breaker) -> None:
    assert patient.read([b"a", b"b"]) == [ROW, ROW]


def test_a_failure_says_what_the_store_said(store: FakeStore, patient: Breaker) -> None:
    store.broken = True
    with pytest.raises(StoreDownError, match=r"It is down\. Looked there\."):
        patient.read([b"k"])


def test_failures_in_a_row_stop_further_reads(store: FakeStore, patient: Breaker) -> None:
    store.broken = True
    fail(patient, FAILURES - 1)
    assert not patient.is_open
    fail(patient, 10)
    assert (patient.is_open, len(store.reads)) == (True, FAILURES)


def test_an_answer_between_them_makes_failures_single(store: FakeStore, patient: Breaker) -> None:
    for _ in range(3):
        store.broken = True
        fail(patient, FAILURES - 1)
        store.broken = False
        patient.read([b"k"])
    assert not patient.is_open


def test_it_heals_without_a_request(store: FakeStore, breaker: Breaker) -> None:
    store.broken = True
    fail(breaker, FAILURES)
    store.broken = False
    until(lambda: not breaker.is_open)
    assert breaker.read([b"k"]) == [ROW]


def test_a_trial_is_the_last_read_on_a_connection_of_its_own(store: FakeStore, breaker: Breaker) -> None:
    store.broken = True
    fail(breaker, FAILURES)
    until(lambda: store.closed >= 2)
    assert store.opened >= 3
    assert store.reads[-1] == [b"k"]
    assert breaker.is_open


def test_after_it_has_healed_it_takes_as_many_failures_again(store: FakeStore, breaker: Breaker) -> None:
    store.broken = True
    fail(breaker, FAILURES)
    store.broken = False
    until(lambda: not breaker.is_open)
    store.broken = True
    fail(breaker)
    assert not breaker.is_open


def test_closing_ends_the_trials(store: FakeStore, breaker: Breaker) -> None:
    store.broken = True
    fail(breaker, FAILURES)
    breaker.close()
    time.sleep(0.02)
    tried = len(store.reads)
    time.sleep(0.05)
    assert len(store.reads) == tried


def test_no_keys_ask_nothing_even_while_it_is_down(store: FakeStore, patient: Breaker) -> None:
    store.broken = True
    fail(patient, FAILURES)
    assert patient.read([]) == []
