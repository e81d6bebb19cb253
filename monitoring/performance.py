"""How good the window's predictions turned out to be, as far as their labels are known.

Labels come late, twice and corrected; a prediction without one is not wrong, it is open. The figures are those of
`millrace.quality`, the code that gates use. This module knows nothing of drift, of models or of what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.errors import LakeError
from millrace.outcomes import LABEL_KNOWN_AT, ROW_KEY, Attached, attach
from millrace.quality import (
    CLIP,
    Difference,
    Floats,
    Quality,
    SliceQuality,
    paired_difference,
    quality,
    row_log_losses,
    slice_quality,
)
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL


@dataclass(frozen=True, slots=True)
class Performance:
    """The quality of a window's predictions on the rows whose label is known; None when there are no such rows."""

    rows: int
    labelled: int
    unscored: int
    """Labelled rows whose score is missing or no probability; left out of the quality."""
    unmatched: int
    corrected: int
    contradictory: int
    quality: Quality | None
    mean_score: float | None
    """Mean predicted probability of the rows that the quality is of; beside their share of positives it shows bias."""
    promised_log_loss: float | None
    """The log loss that these rows would have if every probability were true: their mean entropy, in nats."""
    slices: tuple[SliceQuality, ...]

    @property
    def coverage(self) -> float:
        """Share of the rows whose label is known; 0 for an empty window."""
        return self.labelled / self.rows if self.rows else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": self.rows,
            "labelled": self.labelled,
            "coverage": self.coverage,
            "unscored": self.unscored,
            "unmatched": self.unmatched,
            "corrected": self.corrected,
            "contradictory": self.contradictory,
            "quality": self.quality.to_dict() if self.quality else None,
            "mean_score": self.mean_score,
            "promised_log_loss": self.promised_log_loss,
            "slices": [{"column": s.column, "value": s.value, **s.quality.to_dict()} for s in self.slices],
        }


def join_labels(
    predictions: pl.DataFrame,
    *labels: pl.DataFrame,
    as_of: datetime,
    key: Sequence[str] = (ROW_KEY,),
    since: datetime | None = None,
) -> Attached:
    """Give each prediction its label as known at `as_of` (an aware instant).

    The first of `labels` has the key columns, `label` (boolean, 0/1 or a class's position) and `label_known_at`; each
    other one (`millrace.outcomes.posted`) names its predictions by all columns beside those two. Rows known after
    `as_of`, with a null label or with an empty name are ignored. Of several labels of one prediction, whichever frame
    has them, the one known last holds; of two known at the same instant, the larger. A row predicted twice has its
    label on both. Labels known before `since` are not counted as unmatched. Raises `LakeError` when a frame lacks a
    column.
    """
    _require("predictions", predictions, key)
    _require("labels", labels[0], [*key, LABEL, LABEL_KNOWN_AT])
    own = labels[0].select(*key, LABEL, LABEL_KNOWN_AT)
    return attach(predictions, [_known(frame, as_of) for frame in (own, *labels[1:])], since=since)


def performance(joined: Attached, *, slices: Sequence[str] = (), score: str = "score") -> Performance:
    """The quality of the column `score` on the labelled rows, whole and for each value of the slice columns.

    A slice column that the frame lacks is skipped, as is a value with fewer rows than `slice_quality` asks for. Raises
    `LakeError` when there is no score column.
    """
    _require("predictions", joined.frame, [score])
    labelled = joined.frame.filter(pl.col(LABEL).is_not_null())
    usable = labelled.filter(pl.col(score).is_between(0, 1).fill_null(value=False))
    y, p = usable[LABEL].to_numpy(), usable[score].cast(pl.Float64).to_numpy()
    columns = {name: usable[name].to_list() for name in slices if name in usable.columns}
    return Performance(
        rows=joined.frame.height,
        labelled=labelled.height,
        unscored=labelled.height - usable.height,
        unmatched=joined.unmatched,
        corrected=joined.corrected,
        contradictory=joined.contradictory,
        quality=quality(y, p) if usable.height else None,
        mean_score=float(p.mean()) if usable.height else None,
        promised_log_loss=_mean_entropy(p) if usable.height else None,
        slices=slice_quality(y, p, columns) if usable.height else (),
    )


def log_loss_gain(live: Attached, static: Attached, *, key: Sequence[str] = (ROW_KEY,), seed: int = 0) -> Difference:
    """How much lower the live scores' log loss is than the static ones' on the same labelled rows (positive: better).

    Rows of one hour of `event_time` are resampled together: they share their circumstances. A row scored twice counts
    with its last score. Without common rows every figure is NaN.
    """
    left, right = (scored(side, key) for side in (live, static))
    both = left.join(
        right.select(*key, pl.col("score").alias("other")), on=list(key), how="inner", maintain_order="left"
    )
    y = both[LABEL].to_numpy()
    gains = row_log_losses(y, both["other"].to_numpy()) - row_log_losses(y, both["score"].to_numpy())
    return paired_difference(gains, hours(both), seed=seed)


def hours(frame: pl.DataFrame) -> NDArray[np.int64] | None:
    """The hour of each row's `event_time` (rows,), what is resampled together; None when the frame has no times."""
    return frame[EVENT_TIME].dt.truncate("1h").dt.epoch("s").to_numpy() if EVENT_TIME in frame.columns else None


def scored(joined: Attached, key: Sequence[str]) -> pl.DataFrame:
    """The rows with a label and a probability; of one scored twice, the last."""
    usable = joined.frame.filter(pl.col(LABEL).is_not_null() & pl.col("score").is_between(0, 1).fill_null(value=False))
    return usable.unique(list(key), keep="last", maintain_order=True).with_columns(pl.col("score").cast(pl.Float64))


def _mean_entropy(p: Floats) -> float:
    """Mean of -p log p - (1-p) log(1-p), clipped as the log loss is."""
    q = np.clip(p, CLIP, 1 - CLIP)
    return float(-(q * np.log(q) + (1 - q) * np.log(1 - q)).mean())


def _known(labels: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The labels known at `as_of` whose names are whole."""
    names = [name for name in labels.columns if name not in (LABEL, LABEL_KNOWN_AT)]
    known = labels.with_columns(pl.col(LABEL).cast(pl.Int8)).drop_nulls().filter(pl.col(LABEL_KNOWN_AT) <= as_of)
    texts = [pl.col(name) != "" for name in names if known.schema[name] == pl.String]
    return known.filter(texts) if texts else known  # without a condition, filter keeps nothing


def _require(what: str, frame: pl.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise LakeError(
            f"The {what} lack the column {', '.join(missing)}, so the predictions cannot be held against their labels.",
            looked=f"They have: {', '.join(frame.columns)}.",
            todo="Give both frames the key columns, the predictions `score`, the labels `label` and `label_known_at`.",
        )
