"""How good a window's predictions probably are, before any label is known: the metrics that its scores lead to expect.

If a score of 0.3 still means what it meant on the reference, the outcomes behind the scores can be foreseen on average,
and so can log loss, ROC AUC and accuracy. The scores' meaning is learnt on the reference (a logistic recalibration,
Cox, Biometrika 45, 1958) and applied to the window; the band is where 95 % of the metrics fall when the reference is
resampled and outcomes are drawn. This sees inputs that became harder or easier. It cannot see concept drift, outcomes
that no longer follow from the inputs as they did: there it stays calm while the model is wrong. So it is shown and it
colours an alert; nothing is promoted or refused by it. This module knows nothing of models, windows or decisions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.quality import CLIP, roc_auc
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL

Floats = NDArray[np.float64]

CAVEAT = "It takes for granted that scores mean what they meant on the reference: it cannot see concept drift."
LEAST_LABELS = 200
"""Fewer labelled rows of the reference say too little about what its scores mean."""
_RESAMPLES = 200
_MOST_ROWS = 5_000
"""The band draws outcomes for so many of the window's rows; chance makes it a little wide for a larger window."""
_NEWTON_STEPS = 25
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Expected:
    """A metric that the scores lead to expect, its 95 % band, and the same scores' metric on the reference."""

    value: float
    low: float
    high: float
    reference: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the window's scores lead to expect; `slope` and `intercept` are what the reference says of their meaning
    (1 and 0: the scores are probabilities as they are). Log loss in nats."""

    rows: int
    log_loss: Expected
    roc_auc: Expected
    accuracy: Expected
    mean_outcome: Expected
    intercept: float
    slope: float
    caveat: str = CAVEAT

    @property
    def excess_loss(self) -> float:
        """By how much the expected log loss lies above the reference's, less half its band; 0 when not beyond it."""
        return max(self.log_loss.low - self.log_loss.reference, 0.0)

    @property
    def sentence(self) -> str:
        """The estimate in words."""
        loss, area = self.log_loss, self.roc_auc
        return (
            f"Without labels, the scores lead to expect a log loss of {loss.value:.3f} ({loss.low:.3f} to "
            f"{loss.high:.3f}) and a ROC AUC of {area.value:.3f}. {self.caveat}"
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: _without_nan(value) for name, value in asdict(self).items()}


def estimate(reference: pl.DataFrame, scores: pl.Series, *, seed: int = 0) -> Estimate | None:
    """What the scores of a window lead to expect, given a reference with `score` and `label` (0, 1 or null).

    With an `event_time` in the reference its hours are resampled whole: their rows share circumstances. None when the
    reference has fewer than `LEAST_LABELS` labelled rows or one outcome only, or when the window has no score.
    """
    known = _known(reference)
    p = _probabilities(scores)
    if known is None or not len(p):
        return None
    y, q = known[LABEL].to_numpy().astype(np.float64), known["score"].to_numpy()
    random = np.random.default_rng(seed)
    intercept, slope = recalibration(y, q, np.ones(len(y)))
    drawn_from = p if len(p) <= _MOST_ROWS else random.choice(p, _MOST_ROWS, replace=False)
    band = np.array([_one_draw(y, q, weights, drawn_from, random) for weights in _weights(known, random)])
    low, high = np.nanquantile(band, [0.025, 0.975], axis=0)
    here = _metrics(p, _meaning(p, intercept, slope))
    there = _metrics(q, y)
    loss, area, right, mean = (Expected(*map(float, figure)) for figure in zip(here, low, high, there, strict=True))
    return Estimate(len(p), loss, area, right, mean, intercept, slope)


def recalibration(y: Floats, p: Floats, weights: Floats) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of the outcomes (n,) on the scores' logits, by Newton's method.

    A slight ridge towards 0 and 1 keeps separable outcomes finite.
    """
    x, at = _logit(p), np.array([0.0, 1.0])
    for _ in range(_NEWTON_STEPS):
        c = 1 / (1 + np.exp(-(at[0] + at[1] * x)))
        pull, weight = weights * (y - c), weights * c * (1 - c)
        gradient = np.array([pull.sum(), (pull * x).sum()]) - _RIDGE * (at - [0.0, 1.0])
        cross = (weight * x).sum()
        hessian = np.array([[weight.sum() + _RIDGE, cross], [cross, (weight * x * x).sum() + _RIDGE]])
        step = np.linalg.solve(hessian, gradient)
        at = at + np.clip(step, -4.0, 4.0)
        if np.abs(step).max() < 1e-8:
            break
    return float(at[0]), float(at[1])


def _one_draw(y: Floats, q: Floats, weights: Floats, p: Floats, random: np.random.Generator) -> list[float]:
    """The metrics of one world: a reference resampled by the weights, and outcomes drawn by what it says."""
    meaning = _meaning(p, *recalibration(y, q, weights))
    return _metrics(p, (random.random(len(p)) < meaning).astype(np.float64))


def _weights(known: pl.DataFrame, random: np.random.Generator) -> list[Floats]:
    """Poisson weights of the reference's rows, one number an hour, for each resample."""
    hours = known[EVENT_TIME].dt.truncate("1h").to_physical() if EVENT_TIME in known.columns else None
    groups = np.arange(known.height) if hours is None else np.unique(hours.to_numpy(), return_inverse=True)[1]
    count = int(groups.max()) + 1
    return [random.poisson(1.0, count)[groups].astype(np.float64) for _ in range(_RESAMPLES)]


def _metrics(p: Floats, chance: Floats) -> list[float]:
    """Log loss, ROC AUC, accuracy and mean outcome of the scores, expected of outcomes that are 1 by `chance` (n,)."""
    clipped = np.clip(p, CLIP, 1 - CLIP)
    losses = -chance * np.log(clipped) - (1 - chance) * np.log(1 - clipped)
    right = np.where(p >= 0.5, chance, 1 - chance)
    return [float(losses.mean()), _expected_area(p, chance), float(right.mean()), float(chance.mean())]


def _expected_area(p: Floats, chance: Floats) -> float:
    """The area when each row is a positive of weight `chance` and a negative of the rest; NaN without either."""
    if np.isin(chance, (0.0, 1.0)).all():
        return roc_auc(chance, p)
    distinct, position = np.unique(p, return_inverse=True)
    positive = np.bincount(position, weights=chance, minlength=len(distinct))
    negative = np.bincount(position, weights=1 - chance, minlength=len(distinct))
    below = np.cumsum(negative) - negative / 2
    pairs = positive.sum() * negative.sum()
    return float((positive * below).sum() / pairs) if pairs else float("nan")


def _meaning(p: Floats, intercept: float, slope: float) -> Floats:
    found: Floats = 1 / (1 + np.exp(-(intercept + slope * _logit(p))))
    return found


def _logit(p: Floats) -> Floats:
    q = np.clip(p, CLIP, 1 - CLIP)
    found: Floats = np.log(q / (1 - q))
    return found


def _probabilities(scores: pl.Series) -> Floats:
    """The scores that are probabilities, sorted: sums over them come in one order."""
    floats = scores.cast(pl.Float64)
    return floats.filter(floats.is_between(0, 1)).sort().to_numpy()


def _known(reference: pl.DataFrame) -> pl.DataFrame | None:
    """The reference's rows with an outcome and a probability, if they are enough and not all alike."""
    if not {LABEL, "score"} <= set(reference.columns):
        return None
    event = pl.col(LABEL).cast(pl.Int8)
    rows = reference.filter(event.is_in([0, 1]), pl.col("score").is_between(0, 1))
    enough = rows.height >= LEAST_LABELS and rows[LABEL].n_unique() == 2
    return rows.with_columns(event.alias(LABEL), pl.col("score").cast(pl.Float64)) if enough else None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    return None if isinstance(value, float) and isnan(value) else value
