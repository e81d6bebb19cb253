"""A candidate's search space as Optuna wants it, and back: any value may be searched, not only what Optuna can store.

It knows nothing of models, studies or how values are chosen, but for drawing one at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from millrace.candidates import Integer, Real, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Stored = dict[str, Any]
"""Parameters as they stand in the storage: plain values, or labels that stand for others."""


class SearchSpace:
    """The space of one candidate. `size` counts its combinations, and is infinite when a `Real` is among them."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._choices = {
            name: _labels(values) for name, values in space.items() if not isinstance(values, (Real, Integer))
        }
        self.size: float = prod(self._count(name) for name in space)

    def _count(self, name: str) -> float:
        values = self._space[name]
        if isinstance(values, Real):
            return inf
        return values.high - values.low + 1 if isinstance(values, Integer) else len(self._choices[name])

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna draws each parameter from."""
        return {name: self._distribution(name) for name in self._space}

    def _distribution(self, name: str) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        values = self._space[name]
        if isinstance(values, Real):
            return FloatDistribution(values.low, values.high, log=values.log)
        if isinstance(values, Integer):
            return IntDistribution(values.low, values.high, log=values.log)
        return CategoricalDistribution(tuple(self._choices[name]))

    def params(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """What a candidate is built with, from what is stored."""
        return {name: self._choices[name][value] if name in self._choices else value for name, value in stored.items()}

    def default(self) -> Stored:
        """The candidate's own choice, as it is stored."""
        return {
            name: values.start if isinstance(values, (Real, Integer)) else next(iter(self._choices[name]))
            for name, values in self._space.items()
        }

    def draw(self, random: np.random.Generator) -> Stored:
        """One combination, evenly at random."""
        return {name: self._draw(name, random) for name in self._space}

    def _draw(self, name: str, random: np.random.Generator) -> Any:
        values = self._space[name]
        if isinstance(values, Real):
            if values.log:
                return min(values.high, max(values.low, exp(random.uniform(log(values.low), log(values.high)))))
            return float(random.uniform(values.low, values.high))
        if isinstance(values, Integer):
            return int(random.integers(values.low, values.high, endpoint=True))
        labels = tuple(self._choices[name])
        return labels[int(random.integers(len(labels)))]

    def __str__(self) -> str:
        """The same text for the same space in every process, for the study's name."""
        return "; ".join(f"{name}={_told(self._space[name])}" for name in sorted(self._space))


def _labels(values: Sequence[Any]) -> dict[Any, Any]:
    """The value behind each label that Optuna sees.

    Plain values stand for themselves, so that Optuna's own tools show them. Others (a tuple of widths, a function) can
    not be stored, NaN cannot be looked up, and Optuna takes values that are equal (1 and True) for one: where such are
    among them, each gets a text for a label.
    """
    plain = all(value is None or (isinstance(value, (bool, int, float, str)) and value == value) for value in values)
    if plain and len(set(values)) == len(values):
        return {value: value for value in values}
    return {f"{position}: {_told(value)}": value for position, value in enumerate(values)}


def _told(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_told(one) for one in value)})"
    return str(getattr(value, "__qualname__", None) or repr(value))
