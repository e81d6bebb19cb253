"""Any declared value comes back as it was declared, through Optuna and its storage."""

from __future__ import annotations

from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest

from millrace import Integer, Real
from millrace.candidates import default_params
from training.search.space import SearchSpace


def sigmoid(x: float) -> float:
    """A value that no storage holds."""
    return 1 / (1 + np.exp(-x))


VALUES: dict[str, tuple[Any, ...]] = {
    "plain": (None, "a", 3, 0.5),
    "infinite": (1.0, inf),
    "equal": (1, True, 1.0),
    "nested": ((64, 64), (128,)),
    "functions": (sigmoid, str),
    "numpy": (np.int64(3), np.int64(4)),
    "twice": (5, 5),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_value_goes_through_the_storage_and_comes_back_of_its_kind(
    values: tuple[Any, ...], recwarn: pytest.WarningsRecorder
) -> None:
    import json

    from optuna.distributions import distribution_to_json, json_to_distribution

    space = SearchSpace({"v": values})
    stored: Any = json_to_distribution(distribution_to_json(space.distributions()["v"]))
    back = [space.params({"v": stored.to_external_repr(position)})["v"] for position in range(len(values))]
    assert [(type(one), one) for one in back] == [(type(one), one) for one in values]
    assert [stored.to_internal_repr(label) for label in stored.choices] == list(range(len(values)))
    assert json.loads(json.dumps(space.default())) == space.default()
    assert not recwarn.list


def test_a_missing_number_comes_back() -> None:
    space = SearchSpace({"v": (nan, 1.0)})
    assert isnan(space.params(space.default())["v"])


def test_the_default_is_the_candidates_own() -> None:
    declared = {"a": Real(0.1, 10, log=True), "b": Integer(1, 5, default=4), "c": ((1, 2), (3,)), "d": ("x", "y")}
    space = SearchSpace(declared)
    assert space.params(space.default()) == default_params(declared)


@pytest.mark.parametrize(
    ("space", "size"),
    [({}, 1), ({"a": (1,)}, 1), ({"a": (1, 2, 3), "b": Integer(0, 4)}, 15), ({"a": (1, 2), "b": Real(0, 1)}, inf)],
)
def test_its_size_counts_the_combinations(space: dict[str, Any], size: float) -> None:
    assert SearchSpace(space).size == size


def test_draws_lie_within_and_reach_the_ends() -> None:
    space = SearchSpace({"a": Real(0.001, 1, log=True), "b": Real(-1, 1), "c": Integer(1, 3), "d": ("x", "y")})
    random = np.random.default_rng(0)
    drawn = [space.draw(random) for _ in range(300)]
    assert {one["c"] for one in drawn} == {1, 2, 3}
    assert {one["d"] for one in drawn} == {"x", "y"}
    assert all(-1 <= one["b"] <= 1 and 0.001 <= one["a"] <= 1 for one in drawn)
    assert 0.01 < np.median([one["a"] for one in drawn]) < 0.1  # evenly over the orders of magnitude


def test_its_text_tells_spaces_apart_and_knows_no_addresses() -> None:
    texts = {str(SearchSpace({"v": values})) for values in VALUES.values()}
    assert len(texts) == len(VALUES)
    assert str(SearchSpace({"v": VALUES["functions"]})) == "v=(sigmoid, str)"
    assert str(SearchSpace({"a": (1,), "b": (2,)})) == str(SearchSpace({"b": (2,), "a": (1,)}))
