"""How much newer what a challenger learned from is than what its champion did."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from millrace.contract import Contract
from training.evidence import news


def contract(began: int, ended: int, candidate: str = "gbm", **lineage: Any) -> Contract:
    """Of a model that was fitted on rows between two days of January 2024."""
    fit = {"rows": 100} | {
        name: datetime(2024, 1, day, tzinfo=UTC).isoformat() for name, day in (("from", began), ("until", ended))
    }
    return Contract(
        use_case="rides",
        question="Late?",
        candidate=candidate,
        engine="onnx",
        inputs=(),
        trained_as_of=datetime(2024, 2, 1, tzinfo=UTC),
        read_plan={},
        lineage={"fit": fit} | lineage,
    )


def test_a_longer_history_is_newer_by_what_was_added() -> None:
    assert news(contract(1, 21), contract(1, 16)) == pytest.approx(0.25)


def test_a_history_that_moves_on_is_newer_though_it_is_no_longer() -> None:
    assert news(contract(6, 26), contract(1, 21)) == pytest.approx(0.25)


def test_a_history_wholly_after_the_champions_is_all_new() -> None:
    assert news(contract(20, 25), contract(1, 10)) == 1


def test_the_same_history_is_not_newer() -> None:
    assert news(contract(1, 21), contract(1, 21)) == 0


def test_an_older_history_is_not_newer() -> None:
    assert news(contract(1, 16), contract(1, 21)) == 0


def test_models_of_different_candidates_are_not_compared_so() -> None:
    assert news(contract(1, 21, "net"), contract(1, 16, "gbm")) is None


def test_a_lineage_that_does_not_say_leaves_it_open() -> None:
    assert news(contract(1, 21), contract(1, 16, fit=None)) is None


def test_a_single_instant_leaves_it_open() -> None:
    assert news(contract(5, 5), contract(1, 3)) is None
