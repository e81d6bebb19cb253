"""Merging rows into a lake table by key: which of them the table needs, and Delta's merge of those.

It knows nothing of batches, and commits once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from millrace.errors import LakeError
from millrace.lake.log import Marks, Wrote
from millrace.source import KNOWN_AT

if TYPE_CHECKING:
    from deltalake import DeltaTable


def changed_rows(now: DeltaTable, frame: pl.DataFrame, key: Sequence[str]) -> tuple[pl.DataFrame, bool]:
    """The rows that the table lacks or has as known earlier, and whether there are any of the latter.

    Looking costs a sixth of a Delta merge (300,000 rows, 7,000 new), and most batches then need none: they only append.
    """
    stored = pl.scan_delta(now).select(*key, pl.col(KNOWN_AT).alias("__stored"))
    stored = stored.join(frame.lazy().select(key), on=list(key), how="semi")
    known = frame.lazy().join(stored, on=list(key), how="left", maintain_order="left").collect()
    changed = known.filter(pl.col("__stored").is_null() | (pl.col(KNOWN_AT) > pl.col("__stored")))
    return changed.drop("__stored"), changed["__stored"].null_count() < changed.height


def upsert(now: DeltaTable, frame: pl.DataFrame, key: Sequence[str], marks: Marks) -> None:
    """Insert the rows whose key the table lacks and put the others in the place of those it has."""
    merger = now.merge(
        frame,
        predicate=" AND ".join(f'target."{column}" = source."{column}"' for column in key),
        source_alias="source",
        target_alias="target",
        merge_schema=True,
        commit_properties=marks.properties(Wrote.of(frame, key, whole=False) if marks.batch else None),
    )
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def newest_rows(table: str, frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """One row a key, the newest known."""
    empty = [column for column in key if frame[column].null_count()]
    if empty:
        raise LakeError(f"Rows for the table {table!r} have no value in the key column {', '.join(empty)}.")
    if frame.n_unique(key) == frame.height:
        return frame
    return frame.sort(KNOWN_AT, maintain_order=True).unique(list(key), keep="last", maintain_order=True)
