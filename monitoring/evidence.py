"""What a decision rests on: everything that was known of a window and of the platform's own past, and the limits.

Plain data that JSON can hold and give back whole, so that a decision can be taken again from what was stored with it.
This module knows no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from millrace.quality import Quality
from millrace.usecase import Retrain
from monitoring.harm import Harm

_INSTANTS = ("as_of", "start", "end", "champion_as_of")
_DEFAULT = Retrain()


@dataclass(frozen=True, slots=True)
class Effect:
    """What a retrain brought, on the live rows that its model served and the replaced one was scored on beside it.

    Gains are in nats of log loss, of K classes in the share of rows that are right; positive is better. `predicted` is
    what the gate had seen on the hold-out; None when the two could not be compared there.
    """

    decision: int
    version: int
    predicted: float | None
    realised: float


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
    unseen: float | None = None
    """Share of the rows with an input beyond all that the champion learned from; `unseen_inputs`, the worst first."""
    unseen_inputs: tuple[str, ...] = ()
    top_label: bool = False
    """Whether there are K classes: `quality` is then of the event that the predicted one happened, `holdout` is not."""
    harm: Harm | None = None
    """What the drift is expected to cost; None when that was not asked."""
    effects: tuple[Effect, ...] = ()
    """What retrains brought whose effect is measured, the oldest first, since a person last resumed them."""
    paged: bool = False
    """Whether a person was called since the last of `effects`."""
    training: int | None = None
    """The run that trains this use case now; None when none does."""

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

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Evidence:
        """The inverse of `as_dict`; a field that was not kept in its day has its default, others are passed over."""
        known = {field.name for field in fields(cls)}
        found = {name: _whole(value) for name, value in stored.items() if name in known}
        found |= {name: datetime.fromisoformat(stored[name]) for name in _INSTANTS}
        found["retrained_at"] = tuple(datetime.fromisoformat(moment) for moment in stored.get("retrained_at", ()))
        found["effects"] = tuple(Effect(**one) for one in stored.get("effects", ()))
        found |= {name: stored[name] and Quality.from_dict(stored[name]) for name in ("quality", "holdout")}
        harm = stored.get("harm")
        found["harm"] = harm and Harm(**{name: _whole(value) for name, value in harm.items()})
        return cls(**found)

    def _qualities(self) -> dict[str, Quality | None]:
        return {"quality": self.quality, "holdout": self.holdout}


def limits_to_dict(retrain: Retrain) -> dict[str, Any]:
    """The use case's limits as JSON-able data, lengths of time in seconds."""
    return {name: _plain(value) for name, value in asdict(retrain).items()}


def limits_from_dict(stored: Mapping[str, Any]) -> Retrain:
    """The inverse of `limits_to_dict`; a limit that there was not in its day has its default."""
    given: dict[str, Any] = {field.name: stored[field.name] for field in fields(Retrain) if field.name in stored}
    spans = {name for name in given if isinstance(getattr(_DEFAULT, name), timedelta)}
    return Retrain(**given | {name: timedelta(seconds=given[name]) for name in spans})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _whole(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
