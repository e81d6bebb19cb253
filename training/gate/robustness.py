"""What becomes of a model when its inputs are damaged: each missing in turn, some missing at random, numbers jittered.

Damages a matrix and asks whoever predicts; knows nothing of engines, bundles or features' meaning. The rule and the
measurements behind its constants: docs/decisions/0012-gates.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millrace.class_quality import SUM_TOLERANCE
from millrace.errors import first_line
from millrace.inputs import InputSpec
from millrace.quality import log_loss
from training.gate.verdict import Check, plain

Matrix = NDArray[np.float32]
Predict = Callable[[Matrix], NDArray[np.float64]]

MISSING_SHARE = 0.1
"""Share of the values that go missing at random."""
JITTER = 0.1
"""Standard deviation of the noise on each number, in standard deviations of its column."""
SLACK_MISSING = 0.1
"""Nats by which the log loss may exceed what knowing nothing gives when an input is missing from every row. The
flights' boosting exceeded it by 0.04 at most in 40 weeks, a network that never saw the input missing by 0.16."""
SLACK_MILD = 0.02
"""The same when a tenth of the values is missing or numbers are jittered, which costs the flights' models 0.03 at
most and left them better than knowing nothing in every week."""
MAX_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage: `what` went missing or was jittered, the log loss under it, and the log loss that is `allowed`.

    `invalid` counts the rows without finite probabilities, `error` is what the model raised; the loss is NaN then.
    `baseline` is the baseline's loss under the same damage, None without one or when it cannot answer. `allowed` is
    None where nothing is left to predict from.
    """

    what: str
    log_loss: float
    allowed: float | None
    baseline: float | None = None
    invalid: int = 0
    error: str = ""

    @property
    def answers(self) -> bool:
        """Whether every row got its probabilities."""
        return not self.invalid and not self.error

    @property
    def harms(self) -> bool:
        """Whether the loss is above what is allowed."""
        return self.allowed is not None and self.log_loss > self.allowed


@dataclass(frozen=True, slots=True)
class RobustnessTest:
    """A model's log loss on `rows` undamaged rows, that of the best constant (their own shares of the outcomes), and
    every damage: those that the model does not answer first, then by how far the loss is above the undamaged."""

    rows: int
    log_loss: float
    base_rate: float
    damages: tuple[Damage, ...]


def robustness_test(
    predict: Predict,
    X: Matrix,
    y: ArrayLike,
    inputs: Sequence[InputSpec],
    *,
    baseline: Predict | None = None,
    rows: int = MAX_ROWS,
    seed: int = 0,
) -> RobustnessTest:
    """Damage up to `rows` rows of the hold-out's matrix X (n, width), evenly spread, with outcomes `y` (n,).

    `predict` and `baseline` map a matrix to scores, (n,) or (n, K), as an engine does; `inputs` are the contract's, in
    the matrix's order. The same seed gives the same damages, so that models are compared under the same. What either
    raises is told, not raised. `ValueError` without rows, or for an X that is not of the inputs' width.
    """
    width = sum(one.size for one in inputs)
    if X.ndim != 2 or X.shape[1] != width or not len(X):
        raise ValueError(f"X must be rows of {width} columns, not of the shape {X.shape}")
    places = np.linspace(0, len(X) - 1, min(rows, len(X))).astype(int)
    sample, outcomes = np.array(X[places]), np.asarray(y)[places]
    clean, base_rate = _answer(predict, sample, outcomes), _base_rate(outcomes)
    found = [] if clean.answers else [Damage("nothing damaged", nan, base_rate, None, clean.invalid, clean.error)]
    for what, damaged, slack in _damaged(sample, inputs, np.random.default_rng(seed)):
        ours = _answer(predict, damaged, outcomes)
        theirs = _answer(baseline, damaged, outcomes).log_loss if baseline is not None else nan
        bar = max(loss for loss in (base_rate, clean.log_loss, theirs) if isfinite(loss))
        known = theirs if isfinite(theirs) else None
        allowed = None if slack is None else bar + slack
        found.append(Damage(what, ours.log_loss, allowed, known, ours.invalid, ours.error))
    found.sort(key=lambda one: (one.answers, -one.log_loss if isfinite(one.log_loss) else 0.0))
    return RobustnessTest(len(sample), clean.log_loss, base_rate, tuple(found))


def check_robustness(found: RobustnessTest) -> Check:
    """The rule: the model always answers with probabilities; and no damage makes its log loss worse, by more than the
    slack, than the worst of three: the base rate's, the baseline's under the same damage, its own undamaged."""
    silent = [one for one in found.damages if not one.answers]
    harmful = [one for one in found.damages if one.answers and one.harms]
    reason = _silent(silent[0]) if silent else _harm(found, harmful[0]) if harmful else _borne(found)
    return Check("robustness", not silent and not harmful, reason, plain(found))


def _silent(one: Damage) -> str:
    if one.error:
        return f"With {one.what} it does not answer: {one.error}."
    return f"With {one.what} it gives no probability for {one.invalid:,} rows."


def _harm(found: RobustnessTest, one: Damage) -> str:
    known = f"the base rate has {found.base_rate:.4f}"
    known += f", the baseline {one.baseline:.4f}" if one.baseline is not None else ""
    return (
        f"With {one.what} its log loss is {one.log_loss:.4f} instead of {found.log_loss:.4f}; at most "
        f"{one.allowed or nan:.4f} is allowed ({known})."
    )


def _borne(found: RobustnessTest) -> str:
    judged = [one for one in found.damages if one.allowed is not None]
    if not judged:
        return "It has no inputs that could be damaged."
    worst = judged[0]
    return (
        f"It bears damaged inputs: the worst is {worst.what}, with a log loss of {worst.log_loss:.4f} instead of "
        f"{found.log_loss:.4f} (the base rate has {found.base_rate:.4f})."
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    log_loss: float
    invalid: int = 0
    error: str = ""

    @property
    def answers(self) -> bool:
        return not self.invalid and not self.error


def _answer(predict: Predict, X: Matrix, outcomes: NDArray[Any]) -> _Answer:
    """The log loss of the scores, or why there is none."""
    try:
        scores = np.asarray(predict(X.copy()), dtype=np.float64)
    except Exception as error:  # a model may raise whatever it likes: that it does is the finding
        return _Answer(nan, error=first_line(error))
    if scores.ndim not in (1, 2) or len(scores) != len(X):
        return _Answer(nan, error=f"its scores are of another shape, {scores.shape}, for {len(X):,} rows")
    table = scores if scores.ndim == 2 else scores[:, None]
    with np.errstate(invalid="ignore"):
        valid = ((table >= 0) & (table <= 1)).all(axis=1)
        if scores.ndim == 2:
            valid &= np.abs(table.sum(axis=1) - 1) <= SUM_TOLERANCE
    if not valid.all():
        return _Answer(nan, invalid=int((~valid).sum()))
    return _Answer(log_loss(outcomes, scores))


def _damaged(
    X: Matrix, inputs: Sequence[InputSpec], random: np.random.Generator
) -> Iterator[tuple[str, Matrix, float | None]]:
    """(what is damaged, the matrix, the slack or None where nothing is left to predict from) of each damage.

    An input that was always missing in training is left as it is: its encoding does not depend on its value.
    """
    ends = np.cumsum([one.size for one in inputs])
    columns = [slice(end - one.size, end) for one, end in zip(inputs, ends, strict=True)]
    live = [(one, of) for one, of in zip(inputs, columns, strict=True) if not one.always_missing]
    for spec, of in live:
        damaged = X.copy()
        damaged[:, of] = _missing(spec)
        yield f"{spec.name} missing", damaged, SLACK_MISSING if len(live) > 1 else None
    if live:
        damaged = X.copy()
        for spec, of in live:
            damaged[random.random(len(X)) < MISSING_SHARE, of] = _missing(spec)
        yield f"{100 * MISSING_SHARE:.0f} % of the values missing", damaged, SLACK_MILD if len(live) > 1 else None
    numbers = [of for spec, of in live if spec.kind == "numeric"]
    if numbers:
        damaged = X.copy()
        for of in numbers:
            damaged[:, of] += _jitter(X[:, of], random)
        yield "jittered numbers", damaged, SLACK_MILD


def _missing(spec: InputSpec) -> float:
    """How the contract encodes a missing value."""
    return nan if spec.kind == "numeric" else float(len(spec.categories))


def _jitter(values: Matrix, random: np.random.Generator) -> Matrix:
    """Normal noise of `JITTER` of each column's standard deviation; of a column without values none."""
    known = np.isfinite(values)
    counts = np.maximum(known.sum(axis=0), 1)
    kept = np.where(known, values, 0.0).astype(np.float64)
    mean = kept.sum(axis=0) / counts
    spread = np.sqrt((np.where(known, kept - mean, 0.0) ** 2).sum(axis=0) / counts)
    noise: Matrix = (JITTER * spread * random.normal(size=values.shape)).astype(np.float32)
    return noise


def _base_rate(outcomes: NDArray[Any]) -> float:
    """The log loss of always giving each outcome its share among these rows: their entropy, in nats."""
    shares = np.unique(outcomes, return_counts=True)[1] / len(outcomes)
    return float(-(shares * np.log(shares)).sum())
