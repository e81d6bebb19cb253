"""How much the champion rests on each of its inputs: what its log loss gains when an input tells it nothing.

Permutation importance (Breiman, Machine Learning 45, 2001) on the reference sample of the bundle: the mean log loss
with one input's values dealt to other rows, less the loss as it is. Inputs that say the same thing share it. The
monitoring room knows no models, so the figures are made here and handed over.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from millrace.bundle import Bundle
from millrace.engine import Engine, open_engine
from millrace.quality import log_loss
from millrace.settings import Settings
from millrace.usecase import LABEL
from serving.batch.score import score_frame

MOST_ROWS = 2_000
"""Rows of the reference that are scored again for each input: of 40 inputs, half a second."""


def importances(bundle: Bundle, settings: Settings, *, seed: int = 0) -> dict[str, float]:
    """By input, the log loss (nats) that the model loses without it on at most `MOST_ROWS` labelled reference rows.

    Slightly negative for inputs that do not matter. Empty when the reference has no label.
    """
    reference = bundle.reference()
    rows = reference.filter(pl.col(LABEL).is_not_null()) if LABEL in reference.columns else reference.head(0)
    if rows.is_empty():
        return {}
    rows = rows if rows.height <= MOST_ROWS else rows.sample(MOST_ROWS, seed=seed)
    engine = open_engine(bundle, threads=settings.threads, settings=settings)
    return _losses(bundle, engine, rows, np.random.default_rng(seed))


def _losses(bundle: Bundle, engine: Engine, rows: pl.DataFrame, random: np.random.Generator) -> dict[str, float]:
    labels = rows[LABEL].cast(pl.Int64).to_numpy()
    before = log_loss(labels, score_frame(bundle.contract, engine, rows))
    found = {}
    for name in bundle.contract.names:
        dealt = rows.with_columns(rows[name].gather(random.permutation(rows.height)))
        found[name] = log_loss(labels, score_frame(bundle.contract, engine, dealt)) - before
    return found
