"""A search space that cannot be is refused as it is written, with the rule that it breaks."""

from __future__ import annotations

from typing import Any

import pytest

from millrace import Candidate, Integer, Real, TorchCandidate
from millrace.candidates import default_params
from millrace.errors import UseCaseError


def build(inputs: Any) -> Any:
    """Never called."""


@pytest.mark.parametrize("kind", [Real, Integer])
@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"low": 3, "high": 3}, "low must be less than high"),
        ({"low": 5, "high": 3}, "low must be less than high"),
        ({"low": 0, "high": 3, "log": True}, "with log, low must be above 0"),
        ({"low": -1, "high": 3, "log": True}, "with log, low must be above 0"),
        ({"low": 1, "high": 3, "default": 4}, "default must lie between them, not at 4"),
        ({"low": 1, "high": 3, "default": 0}, "default must lie between them, not at 0"),
    ],
)
def test_a_range_that_cannot_be_is_refused(kind: type[Any], given: dict[str, Any], rule: str) -> None:
    with pytest.raises(UseCaseError, match=rule):
        kind(**given)


@pytest.mark.parametrize("bound", ["low", "high"])
def test_a_range_with_a_bound_that_is_no_number_is_refused(bound: str) -> None:
    with pytest.raises(UseCaseError, match="low must be less than high"):
        Real(**{"low": 1.0, "high": 2.0} | {bound: float("nan")})


@pytest.mark.parametrize("kind", [Candidate, TorchCandidate])
@pytest.mark.parametrize("values", [(), "linear", 3, {1, 2}])
def test_a_parameter_without_values_to_try_is_refused(kind: type[Any], values: Any) -> None:
    with pytest.raises(UseCaseError, match=r"search\['C'\] must be Real\(…\), Integer\(…\) or a sequence"):
        kind("one", build, search={"C": values})


def test_without_a_search_each_parameter_is_its_default() -> None:
    space = {
        "kernel": ("linear", "rbf"),
        "C": Real(0.25, 4.0, log=True),
        "rate": Real(0.0, 1.0),
        "depth": Integer(1, 9),
        "trees": Integer(10, 1_000, default=30, log=True),
        "bins": Integer(1, 100, log=True),
    }
    expected = {"kernel": "linear", "C": 1.0, "rate": 0.5, "depth": 5, "trees": 30, "bins": 10}
    assert default_params(space) == expected
