"""Scores of many rows at once, equal to the online ones: the same encoder, the same engine, no request in between.

This module knows nothing of where the rows come from or go to, nor of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.contract import Contract
from millrace.engine import Engine
from millrace.errors import BundleError

Scores = NDArray[np.float64]

CHUNK_ROWS = 65_536
"""Rows that are encoded at once: what this needs in memory does not grow with the input."""


def score_frame(contract: Contract, engine: Engine, frame: pl.DataFrame) -> Scores:
    """The scores of a frame that has the contract's inputs as columns, in its order.

    The probability of outcome 1, float64 (rows,), or of each of the contract's classes, (rows, classes). Raises
    `FeatureError` naming a column that is missing or of the wrong type, before anything is scored, and `BundleError`
    when the model gives no number for a row.
    """
    return _finite(engine_scores(contract, engine, frame, CHUNK_ROWS))


def engine_scores(contract: Contract, engine: Engine, frame: pl.DataFrame, batch_rows: int) -> Scores:
    """The same, `batch_rows` rows a call of the engine; NaN or infinite where the model gives no number.

    More are encoded at once: of 4,096 rows with 30 columns the calls would cost as much as the encoding itself.
    """
    contract.encode_frame(frame.head(0))
    encoded = (contract.encode_frame(part) for part in frame.iter_slices(CHUNK_ROWS))
    matrices = (matrix[first : first + batch_rows] for matrix in encoded for first in range(0, len(matrix), batch_rows))
    return _scores(engine, matrices, _shape(contract, frame.height))


def score_rows(contract: Contract, engine: Engine, rows: Sequence[Sequence[Any]]) -> Scores:
    """The same for plain values, each row in the contract's order; `RequestError` names a wrong one."""
    parts = (rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS))
    matrices = (contract.encode_rows(part) for part in parts)
    return _finite(_scores(engine, matrices, _shape(contract, len(rows))))


def _shape(contract: Contract, rows: int) -> tuple[int, ...]:
    return (rows, len(contract.classes)) if contract.classes else (rows,)


def _scores(engine: Engine, matrices: Iterator[NDArray[np.float32]], shape: tuple[int, ...]) -> Scores:
    scores = np.empty(shape, dtype=np.float64)
    done = 0
    for matrix in matrices:
        if len(matrix):
            scores[done : done + len(matrix)] = engine.predict(matrix)
            done += len(matrix)
    return scores


def _finite(scores: Scores) -> Scores:
    if not np.isfinite(scores).all():
        wrong = ~np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)
        raise BundleError(f"The model gives no number for {int(wrong.sum())} of {len(scores)} rows.")
    return scores
