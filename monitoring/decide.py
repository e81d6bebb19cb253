"""What follows from a monitoring pass: nothing, an alert, a retrain, or a retrain that is due and held back.

A pure function of the evidence and of the use case's limits, so a decision can be repeated a year later from what was
stored with it. What speaks for a retrain, and how the limits were chosen: docs/decisions/0004-drift-decision.md.
This module knows nothing of frames, of stores or of how a retrain is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from millrace.quality import Quality
from millrace.usecase import Retrain
from monitoring.data_quality import describe

Action = Literal["nothing", "alert", "retrain", "hold_back"]

MONTH = timedelta(days=30)
"""The stretch before `as_of` in which `Retrain.max_per_month` counts."""
DRIFT_SHARE = 0.5
"""With columns and score drifted, this share of `Retrain.max_surprise` is reason enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything a decision rests on, as known at `as_of`. Times are aware UTC instants, losses are in nats."""

    as_of: datetime
    start: datetime
    end: datetime
    rows: int
    """Predictions of the window; `labelled` of them have a label."""
    labelled: int
    quality: Quality | None
    """Of the labelled rows; `promised_log_loss` is what their probabilities led to expect."""
    promised_log_loss: float | None
    holdout: Quality | None
    """The champion's quality on the hold-out it was judged on."""
    drifted: tuple[str, ...]
    """Columns that drifted from the champion's reference, the score aside, largest effect first."""
    score_drifted: bool
    score_effect: float | None
    data_problems: tuple[str, ...]
    champion_version: int
    champion_as_of: datetime
    known_labels: int
    """Labels that were known at the last training; `new_labels` became known since."""
    new_labels: int
    retrained_at: tuple[datetime, ...] = ()
    """When earlier retrains were decided, whatever became of them."""
    top_label: bool = False
    """Whether there are K classes: `quality` is then of the event that the predicted one happened, `holdout` is not."""

    @property
    def last_training(self) -> datetime:
        """The last training by `as_of`: the champion's own, or a later one whose model was refused."""
        return max([self.champion_as_of, *(moment for moment in self.retrained_at if moment <= self.as_of)])

    @property
    def coverage(self) -> float:
        """Share of the window's rows with a label."""
        return self.labelled / self.rows if self.rows else 0.0

    @property
    def growth(self) -> float:
        """New labels as a share of those known at the last training."""
        return self.new_labels / max(self.known_labels, 1)

    @property
    def surprise(self) -> float | None:
        """Log loss less what was promised; None when it is within what chance explains, or unknown."""
        if self.quality is None or self.promised_log_loss is None:
            return None
        low, high = self.quality.log_loss_interval
        difference = self.quality.log_loss - self.promised_log_loss
        return difference if abs(difference) > (high - low) / 2 else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with the three figures above."""
        plain = {name: _plain(value) for name, value in asdict(self).items()}
        qualities = {name: value and value.to_dict() for name, value in self._qualities().items()}
        figures = {"coverage": self.coverage, "growth": self.growth, "surprise": self.surprise}
        return plain | qualities | figures

    def _qualities(self) -> dict[str, Quality | None]:
        return {"quality": self.quality, "holdout": self.holdout}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do; `reason` is one paragraph, `reasons` its sentences, `evidence` what it rests on as JSON-able data."""

    action: Action
    reason: str
    reasons: tuple[str, ...]
    evidence: dict[str, Any]

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

    `retrain`: something speaks for it and nothing forbids it. `hold_back`: something speaks for it, but something
    forbids it. `alert`: nothing speaks for it, but the window is empty or its data cannot be trusted. Else `nothing`.
    """
    causes = _causes(retrain, evidence)
    obstacles = _obstacles(retrain, evidence)
    wrong = _wrong_data(evidence)
    context = _context(retrain, evidence, about=frozenset().union(*(cause.about for cause in causes)))
    for_it = [cause.sentence for cause in causes]
    if causes and not obstacles:
        return _decision("retrain", [*for_it, *context], evidence)
    if causes:
        held = [f"Held back: {obstacle[0].lower()}{obstacle[1:]}" for obstacle in obstacles]
        return _decision("hold_back", [*for_it, *held, *context], evidence)
    if wrong:
        return _decision("alert", [*wrong, *context], evidence)
    return _decision("nothing", ["No reason to retrain.", *context], evidence)


def _causes(retrain: Retrain, evidence: Evidence) -> list[_Cause]:
    """What speaks for a retrain, weightiest first.

    Growth and age count from the last training even when its model was refused: on the same rows the next would be too.
    """
    causes = _outcome_causes(retrain, evidence)
    if evidence.growth >= retrain.max_growth:
        sentence = (
            f"{evidence.new_labels:,} labels are new since the last training, {evidence.growth:.0%} of the "
            f"{evidence.known_labels:,} known then (limit {retrain.max_growth:.0%})."
        )
        causes.append(_Cause(sentence, frozenset({"labels"})))
    age = evidence.as_of - evidence.last_training
    if age >= retrain.max_age:
        sentence = f"The last training was {_days(age)} ago (limit {_days(retrain.max_age)})."
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


def _obstacles(retrain: Retrain, evidence: Evidence) -> list[str]:
    """What forbids a retrain now, a sentence each."""
    obstacles = _wrong_data(evidence)
    if evidence.rows and evidence.coverage < retrain.min_coverage:
        obstacles.append(
            f"The window is immature: labels are known for {evidence.coverage:.0%} of its {evidence.rows:,} rows "
            f"({retrain.min_coverage:.0%} are needed)."
        )
    if evidence.new_labels < retrain.min_new_labels:
        obstacles.append(
            f"Only {evidence.new_labels:,} labels are new since the last training "
            f"({retrain.min_new_labels:,} are needed)."
        )
    last = evidence.last_training
    if evidence.as_of - last < retrain.cooldown:
        obstacles.append(
            f"The last training was on {last:%Y-%m-%d}, {_days(evidence.as_of - last)} ago "
            f"(cool-down {_days(retrain.cooldown)})."
        )
    recent = sum(timedelta(0) <= evidence.as_of - moment < MONTH for moment in evidence.retrained_at)
    if recent >= retrain.max_per_month:
        obstacles.append(f"{recent} retrains in the last {MONTH.days} days (at most {retrain.max_per_month}).")
    return obstacles


def _wrong_data(evidence: Evidence) -> list[str]:
    if not evidence.rows:
        return [f"There are no predictions from {evidence.start:%Y-%m-%d %H:%M} to {evidence.end:%Y-%m-%d %H:%M} UTC."]
    if evidence.data_problems:
        return [f"The window's data cannot be trusted: {describe(evidence.data_problems)}."]
    return []


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
    if "drift" not in about and (evidence.drifted or evidence.score_drifted):
        told.append(f"{_drift(evidence)}.")
    if not about & {"labels", "age"}:
        age = _days(evidence.as_of - evidence.champion_as_of)
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


def _days(span: timedelta) -> str:
    return f"{span.days} day{'' if span.days == 1 else 's'}"


def _decision(action: Action, reasons: Sequence[str], evidence: Evidence) -> Decision:
    return Decision(action, " ".join(reasons), tuple(reasons), evidence.as_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
