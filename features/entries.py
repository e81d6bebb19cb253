"""Rows of a frame as the online stores keep them: the one place where a column's values become packed entries."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from features.online_store import Entry, entity_key, pack, prefix


def entries(
    frame: pl.DataFrame, layout: str, keys: Sequence[str], features: Sequence[str], *, event: str, known: str
) -> list[Entry]:
    """One entry a row, in the frame's order.

    `keys` are the join keys and `features` the values in the order in which the layout stores them; `event` and `known`
    name the columns of the two times (UTC).
    """
    first = prefix(layout)
    entities, values = frame.select(keys).rows(), frame.select(features).rows()
    events, moments = (frame[name].dt.epoch("us").to_list() for name in (event, known))
    return list(map(Entry, [entity_key(first, entity) for entity in entities], events, moments, map(pack, values)))
