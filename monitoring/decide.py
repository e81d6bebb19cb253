"""What follows from a monitoring pass: nothing, an alert, a retrain, one that is due and held back, or a call for help.

A pure function of the evidence and of the use case's limits, so a decision can be taken again a year later from what
was stored with it. What speaks for a retrain, and how the limits were chosen: docs/decisions/0004-drift-decision.md;
what forbids one: `monitoring.guards`. This module knows nothing of frames, of stores or of how a retrain is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from millrace.usecase import Retrain
from monitoring.evidence import Evidence, limits_from_dict, limits_to_dict
from monitoring.guards import days, obstacles, stopped, wrong_data

__all__ = ["Action", "Decision", "Evidence", "Severity", "decide", "decide_again"]

Action = Literal["nothing", "alert", "retrain", "hold_back", "page"]
Severity = Literal["info", "warning", "critical"]

DRIFT_SHARE = 0.5
"""With columns and score drifted, this share of `Retrain.max_surprise` is reason enough."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do; `reason` is one paragraph, `reasons` its sentences.

    `evidence` is what it rests on as JSON-able data: the evidence's fields, the `limits` that it was held against, and
    which sentences spoke `for` and `against` a retrain. `severity` is how soon a person should look.
    """

    action: Action
    reason: str
    reasons: tuple[str, ...]
    evidence: dict[str, Any]
    severity: Severity = "info"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class _Cause:
    """A sentence that speaks for a retrain, and what it is about: outcomes, drift, labels or age."""

    sentence: str
    about: frozenset[str]


def decide(retrain: Retrain, evidence: Evidence) -> Decision:
    """Weigh the evidence: what speaks for a retrain, then what forbids one now.

    `page`: the last retrains brought nothing and nobody was called yet. `retrain`: something speaks for it and nothing
    forbids it. `hold_back`: something speaks for it, but something forbids it. `alert`: nothing speaks for it, but the
    window is empty, its data cannot be trusted, or it has drifted in a way that may do serious harm. Else `nothing`.
    """
    causes, forbidden = _causes(retrain, evidence), obstacles(retrain, evidence)
    about = frozenset[str]().union(*(cause.about for cause in causes))
    spoke_for = [cause.sentence for cause in causes]
    context = _context(retrain, evidence, about=about)
    action, told = _action(retrain, evidence, spoke_for, forbidden)
    said = tuple(dict.fromkeys((*told, *context)))  # what led to the action need not be told again
    kept = evidence.as_dict() | {"limits": limits_to_dict(retrain), "for": spoke_for, "against": forbidden}
    return Decision(action, " ".join(said), said, kept, _severity(action, evidence))


def decide_again(stored: Mapping[str, Any]) -> Decision:
    """The decision that today's rules take on a stored decision's `evidence` and its limits of then.

    Raises `KeyError` or `TypeError` when the data is no decision's evidence.
    """
    return decide(limits_from_dict(stored["limits"]), Evidence.from_dict(stored))


def _action(
    retrain: Retrain, evidence: Evidence, spoke_for: list[str], forbidden: list[str]
) -> tuple[Action, list[str]]:
    """The action and the sentences that lead to it."""
    call = [] if evidence.paged else stopped(retrain, evidence)
    if call:
        return "page", [*call, *spoke_for]
    if spoke_for and not forbidden:
        return "retrain", spoke_for
    if spoke_for:
        return "hold_back", [*spoke_for, *(f"Held back: {one[0].lower()}{one[1:]}" for one in forbidden)]
    alarm = wrong_data(evidence) or _harm(evidence)
    return ("alert", alarm) if alarm else ("nothing", ["No reason to retrain.", *stopped(retrain, evidence)])


def _severity(action: Action, evidence: Evidence) -> Severity:
    """By what may come of it: a drift counts by the harm expected of it, never by how many columns drifted."""
    if action == "page":
        return "critical"
    harmful = evidence.harm is not None and evidence.harm.level == "high"
    return "warning" if action in ("alert", "hold_back") and (wrong_data(evidence) or harmful) else "info"


def _harm(evidence: Evidence) -> list[str]:
    """That a drift may do serious harm, in its own words; what moved without any is context, not an alarm."""
    if evidence.harm is None or evidence.harm.level != "high":
        return []
    return [f"{_drift(evidence)}.", *evidence.harm.sentences] if _has_drifted(evidence) else [*evidence.harm.sentences]


def _has_drifted(evidence: Evidence) -> bool:
    return bool(evidence.drifted) or evidence.score_drifted


def _causes(retrain: Retrain, evidence: Evidence) -> list[_Cause]:
    """What speaks for a retrain, weightiest first.

    Growth and age count from the last training even when its model was refused: on the same rows the next would be too.
    """
    causes = [*_outcome_causes(retrain, evidence), *_unseen_causes(retrain, evidence)]
    if evidence.growth >= retrain.max_growth:
        sentence = (
            f"{evidence.new_labels:,} labels are new since the last training, {evidence.growth:.0%} of the "
            f"{evidence.known_labels:,} known then (limit {retrain.max_growth:.0%})."
        )
        causes.append(_Cause(sentence, frozenset({"labels"})))
    age = evidence.as_of - evidence.last_training
    if age >= retrain.max_age:
        sentence = f"The last training was {days(age)} ago (limit {days(retrain.max_age)})."
        causes.append(_Cause(sentence, frozenset({"age"})))
    return causes


def _outcome_causes(retrain: Retrain, evidence: Evidence) -> list[_Cause]:
    """The cause that lies in the window itself: probabilities that were wrong, or a drift that no label refutes yet."""
    surprise = -1.0 if evidence.surprise is None else abs(evidence.surprise)
    half = retrain.max_surprise * DRIFT_SHARE
    moved = bool(evidence.drifted) and evidence.score_drifted
    apart = f"{_outcomes(evidence)}: {surprise:.3f} apart"
    if surprise >= retrain.max_surprise:
        return [_Cause(f"{apart} (limit {retrain.max_surprise:g}).", frozenset({"outcomes"}))]
    if moved and evidence.coverage < retrain.min_coverage:
        sentence = f"{_drift(evidence)}, and too few labels are known to tell whether it is still right."
        return [_Cause(sentence, frozenset({"drift"}))]
    if moved and surprise >= half:
        sentence = f"{_drift(evidence)}. {apart} (limit {half:g} when the inputs and the score have moved)."
        return [_Cause(sentence, frozenset({"drift", "outcomes"}))]
    return []


def _unseen_causes(retrain: Retrain, evidence: Evidence) -> list[_Cause]:
    """The cause that the model is asked for what it never learned."""
    if evidence.unseen is None or evidence.unseen < retrain.max_unseen:
        return []
    names = f" ({', '.join(evidence.unseen_inputs)})" if evidence.unseen_inputs else ""
    sentence = (
        f"In {evidence.unseen:.0%} of the rows an input lies beyond all that the champion learned from{names} "
        f"(limit {retrain.max_unseen:.0%})."
    )
    return [_Cause(sentence, frozenset({"unseen"}))]


def _context(retrain: Retrain, evidence: Evidence, *, about: frozenset[str]) -> list[str]:
    """What else a reader needs to agree, a sentence each; what the decision is `about` has been said."""
    if not evidence.rows:
        return []
    told = []
    if evidence.quality is not None and evidence.coverage < retrain.min_coverage:
        told.append(f"Labels are known for {evidence.coverage:.0%} of {evidence.rows:,} rows: quality is provisional.")
    if "outcomes" not in about:
        told.append(f"{_outcomes(evidence)}.")
    told.extend(_holdout(evidence))
    if "drift" not in about and _has_drifted(evidence):
        told.append(f"{_drift(evidence)}.")
    if not about & {"labels", "age"}:
        age = days(evidence.as_of - evidence.champion_as_of)
        told.append(
            f"Champion version {evidence.champion_version} is {age} old; {evidence.new_labels:,} labels are new since "
            f"the last training ({evidence.growth:.0%})."
        )
    return told


def _outcomes(evidence: Evidence) -> str:
    if evidence.quality is None or evidence.promised_log_loss is None:
        return "No label is known"
    return (
        f"Log loss {evidence.quality.log_loss:.3f} where the model's own probabilities promised "
        f"{evidence.promised_log_loss:.3f}"
    )


def _holdout(evidence: Evidence) -> list[str]:
    if evidence.quality is None or evidence.holdout is None:
        return []
    now, then = evidence.quality, evidence.holdout
    if evidence.top_label:
        share = f"The predicted class is right in {now.accuracy:.1%} of the rows"
        return [f"{share}; on the champion's hold-out it was in {then.accuracy:.1%}."]
    sentence = f"ROC AUC {now.roc_auc:.3f}; on the champion's hold-out it was {then.roc_auc:.3f}"
    return [f"{sentence} and the log loss {then.log_loss:.3f}."]


def _drift(evidence: Evidence) -> str:
    """The drift in words, without a full stop."""
    count, score = len(evidence.drifted), ""
    if evidence.score_effect is not None:
        verb = "moved" if evidence.score_drifted else "stayed"
        score = f"the score {verb} ({evidence.score_effect:.2f} standard deviations)"
    if not count:
        return score[:1].upper() + score[1:]
    names = ", ".join(evidence.drifted[:3]) + (", …" if count > 3 else "")
    columns = f"{count} column{'s' if count > 1 else ''} drifted ({names})"
    return f"{columns} and {score}" if score else columns
