"""How far two samples of one column lie apart, as Evidently's statistical tests measure it: a p-value and an effect.

Numbers: Kolmogorov-Smirnov p-value and the Wasserstein distance in standard deviations of the reference. Categories:
chi-square p-value and the Jensen-Shannon distance (natural logarithm, 0 … 0.83). The tests are called directly, not
through a report: a report also draws every column, which is three quarters of its time (35 columns × 2 figures: 4.2 s
against 0.4 s). A report that names the same tests gives the same figures. Beside them stands the distance that chance
alone leads to expect between two samples of these sizes, which is far from 0 when rows are few or categories many.
This module knows nothing of frames, of thresholds or of what follows from a figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["numeric", "categorical"]

TESTS: dict[Kind, str] = {"numeric": "ks", "categorical": "chisquare_two_sample"}
"""Evidently's name of the test that gives the p-value. The second is ours, registered with Evidently: its own
`chisquare` takes the reference sample for the truth, which on unchanged columns of 5,000 rows rejects 17 % (2
categories), 72 % (16) and 100 % (100) of the time at 0.05; the two-sample form rejects 3-6 %."""
DISTANCES: dict[Kind, str] = {"numeric": "wasserstein", "categorical": "jensenshannon"}
"""Evidently's name of the distance that gives the effect."""

_LEAST_DEVIATION = 0.001
"""What Evidently divides by when the reference's standard deviation is smaller."""
_DEALS = 20
"""Random deals for the chance of a categorical distance; their mean square is known to a few percent."""
_MIN_EXPECTED = 5.0
"""Categories expected fewer times than this in the smaller sample are tested as one (Cochran's rule, 1954)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one column: the p-value of "both samples come from one distribution", how far apart they are, and how far
    apart two samples of these sizes from one distribution are (root mean square, about)."""

    p_value: float
    effect: float
    chance: float


def beyond_chance(effect: float, chance: float) -> float:
    """The part of a distance that its samples' sizes do not explain; 0 when they explain all of it.

    Chance adds to a distance in squares: exactly so for the divergence behind a Jensen-Shannon distance, and a
    Wasserstein distance well above its chance is hardly lowered.
    """
    return float(np.sqrt(max(effect * effect - chance * chance, 0.0)))


def compare(kind: Kind, reference: NDArray[Any], current: NDArray[Any]) -> Comparison:
    """Compare two samples (n,) and (m,), nothing missing, at least one value each.

    Numbers are finite floats; categories are integer codes common to both samples. Deterministic.
    """
    import pandas as pd

    of_kind, tests = _evidently()
    left, right = pd.Series(reference), pd.Series(current)
    with quiet():
        p_value = tests[TESTS[kind]](left, right, of_kind[kind], None).drift_score
        effect = tests[DISTANCES[kind]](left, right, of_kind[kind], None).drift_score
    # A Jensen-Shannon distance of equal samples can be NaN: the root of a sum that rounds below zero.
    chance = _chance_of_numbers(reference, current) if kind == "numeric" else _chance_of_codes(reference, current)
    return Comparison(p_value=float(p_value), effect=float(np.nan_to_num(effect, nan=0.0)), chance=chance)


def _chance_of_numbers(reference: NDArray[Any], current: NDArray[Any]) -> float:
    """The Wasserstein distance to expect of two samples of the pooled distribution F, in the reference's deviations.

    It is the integral of |F_n - F_m|, whose mean at each point is that of a normal variable's absolute value:
    sqrt(2/pi (1/n + 1/m) F (1 - F)) (del Barrio, Giné & Matrán, Ann. Probab. 27, 1999, for one sample).
    """
    pooled = np.sort(np.concatenate([reference, current]).astype(np.float64))
    below = np.arange(1, len(pooled)) / len(pooled)
    spread = float((np.diff(pooled) * np.sqrt(below * (1 - below))).sum())
    deviation = max(float(np.std(reference)), _LEAST_DEVIATION)
    return float(np.sqrt(2 / np.pi * (1 / len(reference) + 1 / len(current)))) * spread / deviation


def _chance_of_codes(reference: NDArray[Any], current: NDArray[Any]) -> float:
    """The Jensen-Shannon distance of two samples into which the pooled rows are dealt at random, over a few deals.

    No formula holds here: of categories seen once or twice the usual one, (categories - 1) / 8 (1/n + 1/m), is far off.
    """
    _, counts = np.unique(np.concatenate([reference, current]), return_counts=True)
    dealt = np.random.default_rng(0).multivariate_hypergeometric(counts, len(reference), _DEALS, method="marginals")
    p, q = dealt / len(reference), (counts - dealt) / len(current)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(part > 0, part * np.log(part / middle), 0.0) for part in (p, q)]
    divergence = sum(term.sum(axis=1) for term in terms) / 2
    return float(np.sqrt(np.mean(divergence)))


def chi_square_p_value(reference: NDArray[np.int64], current: NDArray[np.int64]) -> float:
    """The p-value of the chi-square test of homogeneity on counts (k,) of the same k categories in two samples.

    Rare categories are tested as one; with a single category left there is nothing to test and the answer is 1.
    """
    from scipy.stats import chi2_contingency  # type: ignore[import-untyped]  # scipy ships no types

    counts = np.stack([reference, current], axis=1)
    total = counts.sum(axis=1)
    rare = total * counts.sum(axis=0).min() / counts.sum() < _MIN_EXPECTED
    table = np.vstack([counts[~rare], counts[rare].sum(axis=0)])
    table = table[table.sum(axis=1) > 0]
    return float(chi2_contingency(table, correction=False).pvalue) if len(table) > 1 else 1.0


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings of Evidently and of what it calls (deprecations, 0/0 in an empty bin) within the block."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def register_tests() -> None:
    """Make our test known to Evidently, so that its reports can name it; once a process."""
    _evidently()


@lru_cache(maxsize=1)
def _evidently() -> tuple[dict[Kind, Any], dict[str, Any]]:
    """Evidently's column types and tests by name. Its import costs seconds, once a process."""
    with quiet():
        from evidently.legacy.calculations import stattests
        from evidently.legacy.core import ColumnType

    ours = stattests.StatTest(
        name=TESTS["categorical"],
        display_name="two-sample chi-square p_value",
        allowed_feature_types=[ColumnType.Categorical],
        default_threshold=0.05,
    )
    stattests.register_stattest(ours, _evidently_chi_square)
    tests = {
        "ks": stattests.ks_stat_test,
        "wasserstein": stattests.wasserstein_stat_test,
        "jensenshannon": stattests.jensenshannon_stat_test,
        ours.name: ours,
    }
    return {"numeric": ColumnType.Numerical, "categorical": ColumnType.Categorical}, tests


def _evidently_chi_square(reference: Any, current: Any, feature_type: Any, threshold: float) -> tuple[float, bool]:
    """`chi_square_p_value` in the form of an Evidently test: two pandas series in, p-value and verdict out."""
    left, right = reference.value_counts(), current.value_counts()
    names = left.index.union(right.index)
    p_value = chi_square_p_value(
        left.reindex(names, fill_value=0).to_numpy(), right.reindex(names, fill_value=0).to_numpy()
    )
    return p_value, p_value < threshold
