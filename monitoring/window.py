"""One monitoring pass over one window: what is seen of it, what is known of its outcomes, and what follows from them.

Frames in, one frozen result out; the same frames, instants and seed give the same result. This module knows nothing of
lakes, databases, bundles or flows, and it reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from math import isnan
from typing import Any

import polars as pl

from millrace.contract import Contract
from millrace.errors import NoDataError
from millrace.quality import Difference, Quality
from millrace.usecase import UseCase
from monitoring.data_quality import DataQuality
from monitoring.decide import Decision, Evidence, decide
from monitoring.drift import Drift
from monitoring.estimate import Estimate
from monitoring.harm import Harm
from monitoring.labelling import attach_labels, known_since, with_row_key
from monitoring.maturity import Maturity, maturity
from monitoring.performance import Performance, log_loss_gain
from monitoring.rows import inside, last_of_each_row
from monitoring.service import Service
from monitoring.sight import Beside, Sight, live_performance, look
from monitoring.slices import SliceDrift
from monitoring.top_label import accuracy_gain
from monitoring.unseen import unseen


@dataclass(frozen=True, slots=True)
class Window:
    """Predictions for instants in [start, end), seen with what is known at `as_of`; all aware UTC instants."""

    start: datetime
    end: datetime
    as_of: datetime

    def __post_init__(self) -> None:
        if not self.start < self.end <= self.as_of:
            raise NoDataError(
                f"There is no window from {self.start} to {self.end} to look at as of {self.as_of}.",
                todo="Give a start before its end, and an end no later than --as-of.",
            )


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that is watched: its version, the instant it was trained as of, its quality on its hold-out, and its
    contract, which says what it learned from."""

    version: int
    as_of: datetime
    holdout: Quality | None = None
    contract: Contract | None = None


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What one pass saw and decided. `static` and `gain` (log loss that the live scores save on the same rows, or, of K
    classes, the share of rows that they have right beyond the others; positive is better) are there when the scores of
    a model left alone were given; the other parts are those of `Sight`."""

    window: Window
    version: int
    rows: int
    repeated: int
    """Predictions of a row that was predicted again later; only the last one counts in `rows` and in every figure."""
    data_quality: DataQuality
    drift: Drift
    previous: Drift | None
    slices: tuple[SliceDrift, ...]
    live: Performance
    maturity: Maturity
    estimate: Estimate | None
    service: Service
    harm: Harm
    static: Performance | None
    gain: Difference | None
    evidence: Evidence
    decision: Decision

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        parts = ("data_quality", "drift", "live", "maturity", "service", "harm", "decision")
        optional = {name: getattr(self, name) for name in ("previous", "estimate", "static")}
        return {
            "start": self.window.start.isoformat(),
            "end": self.window.end.isoformat(),
            "as_of": self.window.as_of.isoformat(),
            "version": self.version,
            "rows": self.rows,
            "repeated": self.repeated,
            "slices": [one.as_dict() for one in self.slices],
            "gain": _without_nan(asdict(self.gain)) if self.gain else None,
            **{name: getattr(self, name).as_dict() for name in parts},
            **{name: part.as_dict() if part else None for name, part in optional.items()},
        }

    def told(self) -> dict[str, Any]:
        """What a person asks first beside the figures, in words: is it final, what is to be expected, how bad is it."""
        return {
            "maturity": self.maturity.sentence,
            "estimate": self.estimate.sentence if self.estimate and not self.maturity.enough else None,
            "harm": " ".join((f"{self.harm.level}.", *self.harm.sentences)),
        }

    def summary(self) -> dict[str, Any]:
        """JSON-able: what is kept of the pass with its window, without the figures of every column."""
        before = list(self.previous.drifted) if self.previous else None
        return {
            "maturity": self.maturity.as_dict(),
            "harm": self.harm.as_dict(),
            "estimate": self.estimate.as_dict() if self.estimate else None,
            "service": self.service.as_dict(),
            "problems": list(self.data_quality.problems),
            "stuck": list(self.data_quality.stuck),
            "drifted_since_previous": before,
            "slices": [one.sentence for one in self.slices if one.sentence],
        }


def watch(
    use_case: UseCase,
    window: Window,
    champion: Champion,
    *,
    reference: pl.DataFrame,
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    posted: Sequence[pl.DataFrame] = (),
    static: pl.DataFrame | None = None,
    retrained_at: Sequence[datetime] = (),
    beside: Beside | None = None,
    seed: int = 0,
) -> WindowResult:
    """One monitoring pass.

    `reference`: the champion's hold-out rows with their features and `score` (`reference.parquet` of its bundle).
    `predictions`: rows of the prediction log; those with an `event_time` outside the window are left out.
    `labels`: every label of the use case's source known so far, with `label`, `label_known_at` and either `row_key` or
    the population's key columns. `posted`: what clients said (`millrace.outcomes.posted`). `static`: the same rows
    scored by a model left alone (`row_key`, `event_time`, `score`). When the label has classes, both have `predicted`,
    and every figure is of its being right (`monitoring.top_label`).
    `retrained_at`: when earlier retrains were decided, whatever became of them.

    Raises `LakeError` when a frame lacks a column that the join needs. An empty window, missing labels and a reference
    of another schema raise nothing: the result says them.
    """
    keyed = with_row_key(labels, use_case)
    within, repeated = last_of_each_row(inside(predictions, window.start, window.end))
    live = attach_labels(use_case, within, keyed, posted, start=window.start, as_of=window.as_of)
    ripe = maturity(
        live.frame,
        end=window.end,
        as_of=window.as_of,
        arrives_after=use_case.label.arrives_after,
        min_coverage=use_case.retrain.min_coverage,
    )
    seen = look(use_case, reference, within, live, ripe, beside or Beside(), seed=seed)
    evidence = _evidence(window, champion, known_since(keyed, posted), seen, retrained_at)
    beyond = unseen(champion.contract, within) if champion.contract else None
    if beyond is not None:
        evidence = replace(evidence, unseen=beyond.share, unseen_inputs=beyond.inputs)
    evidence = replace(evidence, top_label=bool(use_case.label.classes))
    shadow = None
    if static is not None:
        alone, _ = last_of_each_row(inside(static, window.start, window.end))
        shadow = attach_labels(use_case, alone, keyed, posted, start=window.start, as_of=window.as_of)
    compare = accuracy_gain if use_case.label.classes else log_loss_gain
    parts: dict[str, Any] = {part.name: getattr(seen, part.name) for part in fields(seen)}
    return WindowResult(
        window=window,
        version=champion.version,
        rows=within.height,
        repeated=repeated,
        **parts,
        static=live_performance(use_case, shadow) if shadow else None,
        gain=compare(live, shadow, seed=seed) if shadow else None,
        evidence=evidence,
        decision=decide(use_case.retrain, evidence),
    )


def _evidence(
    window: Window,
    champion: Champion,
    labels: pl.Series,
    sight: Sight,
    retrained_at: Sequence[datetime],
) -> Evidence:
    live, found = sight.live, sight.drift
    seen = Evidence(
        as_of=window.as_of,
        start=window.start,
        end=window.end,
        rows=live.rows,
        labelled=live.labelled,
        quality=live.quality,
        promised_log_loss=live.promised_log_loss,
        holdout=champion.holdout,
        drifted=found.drifted,
        score_drifted=found.score.drifted if found.score else False,
        score_effect=found.score.beyond if found.score else None,
        data_problems=sight.data_quality.problems,
        champion_version=champion.version,
        champion_as_of=champion.as_of,
        known_labels=0,
        new_labels=0,
        retrained_at=tuple(sorted(retrained_at)),
        harm=sight.harm,
    )
    known = labels.filter(labels <= window.as_of)
    before = int((known <= seen.last_training).sum())
    return replace(seen, known_labels=before, new_labels=known.len() - before)


def _without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in figures.items()}
