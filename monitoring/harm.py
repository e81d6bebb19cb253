"""How much a window's changes are expected to cost: none, low or high, with the figures that say so.

Known outcomes outrank every expectation: where enough labels are there, the loss beyond the model's own promise says
what the change costs, and inputs that moved without it did little harm. Before the labels, what counts is how far the
scores moved, what loss the probabilities lead to expect, and how much of the model rests on the inputs that moved.
How many columns drifted counts for nothing. This module knows nothing of frames, of stores or of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["none", "low", "high"]

SERIOUS_SHIFT = 0.05
"""A mean score that moved by this much, in units of probability, is serious before the labels say otherwise."""
SERIOUS_DISTANCE = 0.5
"""So is a distribution of scores that lies this many standard deviations away."""
SERIOUS_SHARE = 0.5
"""So are drifted columns that carry this share of the model's importance."""
_FIGURES = ("score_shift", "score_distance", "expected_loss", "surprise", "importance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What a harm is judged from. Losses are in nats; None is what is not known.

    `surprise` is the realised log loss less the promised one, 0 when chance explains it; None when there are too few
    labels to tell. `expected_loss` is how far the estimated log loss lies above the reference's beyond its band.
    """

    drifted: tuple[str, ...]
    """Columns that drifted, the score aside."""
    score_drifted: bool
    score_shift: float | None
    """Mean score less the reference's."""
    score_distance: float | None
    """Distance of the two distributions beyond chance, in standard deviations of the reference."""
    expected_loss: float | None = None
    surprise: float | None = None
    importance: float | None = None
    """Share of the model's importance that the drifted columns carry, 0 … 1."""


@dataclass(frozen=True, slots=True)
class Harm:
    """`level` is none while nothing has changed that could cost anything, high when it is worth waking somebody.

    `sentences` say why; the figures are those of `Signs`, flat, so that what was stored can be read back.
    """

    level: Level
    sentences: tuple[str, ...] = ()
    score_shift: float | None = None
    score_distance: float | None = None
    expected_loss: float | None = None
    surprise: float | None = None
    importance: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"sentences": list(self.sentences)}


def judge_harm(signs: Signs, *, serious_loss: float) -> Harm:
    """Weigh the signs. `serious_loss` (nats) is the loss beyond the promise that calls for a training."""
    level, sentences = _weigh(signs, serious_loss)
    figures = {name: getattr(signs, name) for name in _FIGURES}
    return Harm(level, tuple(sentences), **figures)


def share_of(importance: Mapping[str, float], drifted: Sequence[str]) -> float | None:
    """The share of the importance that the drifted columns carry; None when no column has any.

    `importance` is by input; the two columns in which an array is watched (`<name> mean`, `<name> spread`) stand for
    their input. Inputs that made the model worse count as nothing.
    """
    total = sum(max(value, 0.0) for value in importance.values())
    moved = {name for name in importance if {name, f"{name} mean", f"{name} spread"} & set(drifted)}
    return sum(max(importance[name], 0.0) for name in moved) / total if total > 0 else None


def _weigh(signs: Signs, serious_loss: float) -> tuple[Level, list[str]]:
    """The level and its sentences: what the outcomes say, else what is to be feared."""
    moved = bool(signs.drifted) or signs.score_drifted
    if signs.surprise is not None:
        return _realised(moved, abs(signs.surprise), serious_loss)
    if not moved:
        return "none", []
    serious = _expected(signs, serious_loss)
    if serious:
        return "high", serious
    return "low", ["What moved is expected to do little harm: neither the scores nor what the model rests on did."]


def _realised(moved: bool, surprise: float, serious_loss: float) -> tuple[Level, list[str]]:
    """What the outcomes say; it may be better than what was feared."""
    apart = f"The log loss lies {surprise:.3f} from what the model promised"
    if surprise >= serious_loss:
        return "high", [f"{apart} (serious from {serious_loss:g})."]
    if not moved:
        return "none", []
    if surprise:
        return "low", [f"{apart}, less than is serious."]
    return "low", ["The outcomes are as the model's probabilities promised: what moved did no harm."]


def _expected(signs: Signs, serious_loss: float) -> list[str]:
    """What makes a drift serious before its outcomes are known, a sentence each."""
    found = []
    shift, distance = signs.score_shift or 0.0, signs.score_distance or 0.0
    if signs.score_drifted and (abs(shift) >= SERIOUS_SHIFT or distance >= SERIOUS_DISTANCE):
        found.append(f"The mean score moved by {shift:+.3f}, the scores by {distance:.2f} standard deviations.")
    if signs.expected_loss is not None and signs.expected_loss >= serious_loss:
        found.append(f"The scores lead to expect a log loss {signs.expected_loss:.3f} above the reference's.")
    if signs.drifted and signs.importance is not None and signs.importance >= SERIOUS_SHARE:
        found.append(f"The drifted columns carry {signs.importance:.0%} of the model's importance.")
    return found
