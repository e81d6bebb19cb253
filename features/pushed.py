"""The rows that were pushed to a feature view: where the lake keeps them, and how they are read beside the built ones.

A view's pushed rows are a table of their own, `pushed/<view>`: a build replaces stretches of a feature table and knows
nothing of them, and a push is one commit, whatever the feature table's size. Whoever reads a view's rows (joins,
materialization) reads both tables. This module checks no row and knows nothing of online stores or Feast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

PUSHED_AT = "_pushed_at"
"""Column: when the platform took the row (UTC)."""
BATCH = "_push"
"""Column: the push that the row came with."""


def pushed_table(view: str) -> str:
    """The name in the lake of a view's pushed rows."""
    return f"pushed/{view}"


def with_pushed(
    rows: pl.LazyFrame, view: str, columns: Sequence[str], *, table: str, options: Mapping[str, str]
) -> pl.LazyFrame:
    """The rows that were pushed to a view, in order, and after them its `rows` of the feature table at `table`.

    Joins and materialization take the last of several rows with one entity and the same two times: a built row stands
    over a pushed one, and the later push over the earlier. A column that a push did not have, because the view got it
    later, is null in its rows, as is a value that is not of the type that the view has now. When nothing was pushed, or
    `table` is not an address in the lake, these are `rows` as they are, with all their columns.
    """
    from deltalake import DeltaTable

    root, of_lake, _ = table.rpartition("/features/")
    place = f"{root}/{pushed_table(view)}"
    if not of_lake or not DeltaTable.is_deltatable(place, dict(options)):
        return rows
    types = rows.select(columns).collect_schema()
    pushed = pl.scan_delta(place, storage_options=dict(options))
    known = pushed.collect_schema()
    ordered = pushed.sort(PUSHED_AT).select(
        (pl.col(name) if name in known else pl.lit(None).alias(name)).cast(dtype, strict=False)
        for name, dtype in types.items()
    )
    return pl.concat([ordered, rows.select(columns)])
