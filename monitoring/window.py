"""One monitoring pass over one window: the data's quality, the drift, the performance, and what follows from them.

Frames in, one frozen result out; the same frames, instants and seed give the same result. This module knows nothing of
lakes, databases, bundles or flows, and it reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import isnan
from typing import Any

import polars as pl

from millrace.errors import NoDataError
from millrace.outcomes import LABEL_KNOWN_AT, PREDICTION_ID, ROW_KEY, Attached
from millrace.prediction_log import PREDICTED, row_keys
from millrace.quality import Difference, Quality
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL, UseCase
from monitoring import data_quality
from monitoring.arrays import without_arrays
from monitoring.data_quality import DataQuality
from monitoring.decide import Decision, Evidence, decide
from monitoring.drift import SCORE, Drift, drift
from monitoring.performance import Performance, join_labels, log_loss_gain, performance
from monitoring.top_label import accuracy_gain, as_event, of_top_label


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
    """The model that is watched: its version, the instant it was trained as of, its quality on its hold-out."""

    version: int
    as_of: datetime
    holdout: Quality | None = None


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What one pass saw and decided. `static` and `gain` (log loss that the live scores save on the same rows, or, of K
    classes, the share of rows that they have right beyond the others; positive is better) are there when the scores of
    a model left alone were given."""

    window: Window
    version: int
    rows: int
    repeated: int
    """Predictions of a row that was predicted again later; only the last one counts in `rows` and in every figure."""
    data_quality: DataQuality
    drift: Drift
    live: Performance
    static: Performance | None
    gain: Difference | None
    evidence: Evidence
    decision: Decision

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "start": self.window.start.isoformat(),
            "end": self.window.end.isoformat(),
            "as_of": self.window.as_of.isoformat(),
            "version": self.version,
            "rows": self.rows,
            "repeated": self.repeated,
            "data_quality": self.data_quality.as_dict(),
            "drift": self.drift.as_dict(),
            "live": self.live.as_dict(),
            "static": self.static.as_dict() if self.static else None,
            "gain": _without_nan(asdict(self.gain)) if self.gain else None,
            "decision": self.decision.as_dict(),
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
    keyed = _with_row_key(labels, use_case)
    within, repeated = _last_of_each_row(_inside(predictions, window))
    alone = None if static is None else _last_of_each_row(_inside(static, window))[0]
    live = _labelled(use_case, within, keyed, posted, window)
    shadow = None if alone is None else _labelled(use_case, alone, keyed, posted, window)
    seen, before = without_arrays(within), without_arrays(reference)
    found = drift(before, seen, use_case.monitor, seed=seed)
    trust = data_quality.check(before, seen)
    of_live = _performance(use_case, live)
    evidence = _evidence(window, champion, _known_since(keyed, posted), of_live, found, trust, retrained_at)
    evidence = replace(evidence, top_label=bool(use_case.label.classes))
    compare = accuracy_gain if use_case.label.classes else log_loss_gain
    return WindowResult(
        window=window,
        version=champion.version,
        rows=within.height,
        repeated=repeated,
        data_quality=trust,
        drift=found,
        live=of_live,
        static=_performance(use_case, shadow) if shadow else None,
        gain=compare(live, shadow, seed=seed) if shadow else None,
        evidence=evidence,
        decision=decide(use_case.retrain, evidence),
    )


def _evidence(
    window: Window,
    champion: Champion,
    labels: pl.Series,
    live: Performance,
    found: Drift,
    trust: DataQuality,
    retrained_at: Sequence[datetime],
) -> Evidence:
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
        score_effect=found.score.effect if found.score else None,
        data_problems=trust.problems,
        champion_version=champion.version,
        champion_as_of=champion.as_of,
        known_labels=0,
        new_labels=0,
        retrained_at=tuple(sorted(retrained_at)),
    )
    known = labels.filter(labels <= window.as_of)
    before = int((known <= seen.last_training).sum())
    return replace(seen, known_labels=before, new_labels=known.len() - before)


def _inside(predictions: pl.DataFrame, window: Window) -> pl.DataFrame:
    if EVENT_TIME not in predictions.columns:
        return predictions
    return predictions.filter(pl.col(EVENT_TIME).is_between(window.start, window.end, closed="left"))


def _last_of_each_row(predictions: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The last prediction of each row key and how many others there were: last by the instant predicted
    at, which is when a late answer would have been given, then by when it was served.

    Predictions without a key are all kept: nothing says that two of them are of one row.
    """
    if ROW_KEY not in predictions.columns:
        return predictions, 0
    keyless = pl.col(ROW_KEY).fill_null("") == ""
    order = [name for name in (EVENT_TIME, "served_at", "prediction_id") if name in predictions.columns]
    ordered = predictions.sort(order, maintain_order=True) if order else predictions
    last = ordered.filter(~keyless).unique(ROW_KEY, keep="last", maintain_order=True)
    kept = pl.concat([last, ordered.filter(keyless)])
    return kept, predictions.height - kept.height


def _labelled(
    use_case: UseCase, predictions: pl.DataFrame, labels: pl.DataFrame, posted: Sequence[pl.DataFrame], window: Window
) -> Attached:
    """The columns that performance needs, with their labels; of K classes, whether the predicted one happened.

    The source knows a label no earlier than the instant predicted at, so those known before the window are not needed,
    and those known since without a prediction are worth counting. What is posted may say of itself when it was known.
    """
    classes = use_case.label.classes
    wanted = {ROW_KEY, PREDICTION_ID, EVENT_TIME, SCORE, *use_case.slices, *([PREDICTED] if classes else [])}
    narrow = predictions.select(name for name in predictions.columns if name in wanted)
    fresh = labels.filter(pl.col(LABEL_KNOWN_AT) >= window.start)
    joined = join_labels(narrow, fresh, *posted, as_of=window.as_of, since=window.start)
    return as_event(joined, classes) if classes else joined


def _known_since(labels: pl.DataFrame, posted: Sequence[pl.DataFrame]) -> pl.Series:
    """Since when each row's first label is known; a row that both the source and clients know counts once."""
    if not posted:
        return labels[LABEL_KNOWN_AT]
    of_names: dict[tuple[str, ...], list[pl.DataFrame]] = {}
    for frame in (labels.select(ROW_KEY, LABEL_KNOWN_AT), *(frame.drop(LABEL) for frame in posted)):
        of_names.setdefault(tuple(frame.drop(LABEL_KNOWN_AT).columns), []).append(frame)
    first = [pl.concat(frames).group_by(names).agg(pl.col(LABEL_KNOWN_AT).min()) for names, frames in of_names.items()]
    return pl.concat([frame[LABEL_KNOWN_AT] for frame in first])


def _performance(use_case: UseCase, joined: Attached) -> Performance:
    found = performance(joined, slices=use_case.slices)
    return of_top_label(found) if use_case.label.classes else found


def _with_row_key(labels: pl.DataFrame, use_case: UseCase) -> pl.DataFrame:
    """The labels with their `row_key` as the prediction log writes it."""
    key = use_case.label.source.key
    if ROW_KEY in labels.columns or not set(key) <= set(labels.columns):
        return labels
    return labels.with_columns(row_keys(key, labels.schema))


def _without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in figures.items()}
