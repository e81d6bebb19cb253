"""The lake's table of rows that a batch scoring job could not score: which row, why, and what it held.

A chunk's rows arrive once, however often the chunk is done. Of each row a bounded copy is kept: a text's first 200
characters, 2,000 in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from millrace.lake import Lake
from millrace.source import EVENT_TIME, KNOWN_AT
from serving.batch.checking import INSTANT
from serving.batch.inputs import ROW
from serving.batch.plan import JobPlan
from serving.batch.sinks import batch_name

TABLE = "rejected_scores"
"""The lake's table."""
REASON = "__reason"
MOST_TEXT, MOST_CONTENT = 200, 2_000
TOLD = 20
"""Reasons that a chunk tells with their counts; the table has all."""


class Rejects:
    """Writes what could not be scored."""

    def __init__(self, plan: JobPlan, lake: Lake) -> None:
        self._plan, self._lake = plan, lake

    def write(self, chunk: int, parts: Sequence[pl.DataFrame]) -> dict[str, int]:
        """Write the rows, each with its `REASON`; returns the commonest reasons and how many rows have each."""
        rows = pl.concat([self._rows(part) for part in parts]).sort("row")
        self._lake.append(TABLE, rows, batch=batch_name(self._plan.job, chunk))
        counts = rows["reason"].value_counts().sort(["count", "reason"], descending=[True, False]).head(TOLD)
        return dict(counts.iter_rows())

    def _rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        plan, read = self._plan, rows.drop(ROW, REASON)
        texts = [
            pl.col(name).cast(pl.String).str.slice(0, MOST_TEXT) for name, d in read.schema.items() if d == pl.String
        ]
        content = pl.struct(read.columns).struct.json_encode().str.slice(0, MOST_CONTENT)
        at = pl.col(EVENT_TIME) if EVENT_TIME in read.columns else pl.lit(None)
        return rows.with_columns(texts).select(
            pl.lit(plan.job).alias("run_id"),
            pl.col(ROW).cast(pl.Int64).alias("row"),
            pl.col(REASON).alias("reason"),
            content.alias("content"),
            pl.lit(plan.version, pl.Int64).alias("model_version"),
            at.cast(INSTANT).alias(EVENT_TIME),
            pl.lit(plan.scored_at, INSTANT).alias(KNOWN_AT),
        )
