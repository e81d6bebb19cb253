"""The point-in-time join, in polars: for each row at t, the newest feature row that had happened and was known by t.

A feature row is visible from `max(event_time, known_at)` on. Of the visible rows of an entity the one with the latest
event counts, of equal events the one known last. Sorted by the moment they become visible, rows that do not raise the
latest event so far can never be the answer; without them both times grow together, and one backward as-of join
finds it. This module knows nothing of Feast, files or the lake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

INSTANT = pl.Datetime("us", "UTC")
_AT, _EVENT, _KNOWN, _SEEN, _ORDER = "__at", "__event", "__known", "__visible_from", "__order"


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """One feature view's rows and how to read them.

    `keys` maps the rows' entity columns to the columns of the frame they are joined to; `columns` maps the features to
    the names they get there. `created` (the column of the time a row became known) may be absent: then a row is known
    when it happens. `ttl` is inclusive; None never expires.
    """

    rows: pl.LazyFrame
    keys: dict[str, str]
    columns: dict[str, str]
    event: str
    created: str | None
    ttl: timedelta | None


def join_asof(frame: pl.DataFrame, at: str, views: Sequence[FeatureRows]) -> pl.DataFrame:
    """`frame` in its order with one column per feature of each view, null where nothing was known or all has expired.

    `at` names the column of instants (UTC); a row without an instant or without a key gets nulls. Columns of `frame`
    that have a feature's name are replaced.
    """
    keys = {key for view in views for key in view.keys.values()}
    left = frame.select(pl.col(at).cast(INSTANT).alias(_AT), *sorted(keys)).with_row_index(_ORDER).sort(_AT)
    first, last = left[_AT].min(), left[_AT].max()
    columns: list[pl.Series] = []
    for view in views:
        right = visible(view, first, last)  # type: ignore[arg-type]  # the extremes of a datetime column
        columns += _join(left, view, right).get_columns()
    joined = left.select(_ORDER).with_columns(columns).sort(_ORDER).drop(_ORDER)
    return frame.with_columns(joined.get_columns())


def visible(view: FeatureRows, first: datetime | None, last: datetime | None) -> pl.DataFrame:
    """The view's rows that can answer for an instant in [first, last], sorted by when they become visible.

    Columns: the entity's, the features and the event time under their own names, and the moment of visibility.
    """
    event, known = pl.col(view.event).cast(INSTANT), pl.col(view.created or view.event).cast(INSTANT)
    rows = view.rows.filter(event <= last, known <= last) if last is not None else view.rows
    if first is not None and view.ttl is not None:
        rows = rows.filter(event >= first - view.ttl)
    ordered = (
        rows.select(*view.keys, *view.columns, event.alias(_EVENT), known.alias(_KNOWN))
        .with_columns(pl.max_horizontal(_EVENT, _KNOWN).alias(_SEEN))
        .sort(_SEEN, _EVENT, _KNOWN, maintain_order=True)
        .collect()
    )
    if not ordered[
        _EVENT
    ].is_sorted():  # the usual case, a constant delay, is: 200,000 rows in 1 ms instead of 20 to 300
        ordered = ordered.filter(pl.col(_EVENT) == pl.col(_EVENT).cum_max().over(list(view.keys)))
    return ordered


def _join(left: pl.DataFrame, view: FeatureRows, right: pl.DataFrame) -> pl.DataFrame:
    """The view's features for the rows of `left` (sorted by their instants), under their final names."""
    narrow = left.select(
        _AT, *(pl.col(ours).cast(right.schema[theirs]).alias(theirs) for theirs, ours in view.keys.items())
    )
    joined = narrow.join_asof(
        right.select(_SEEN, _EVENT, *view.keys, *(pl.col(name).alias(f"__{name}") for name in view.columns)),
        left_on=_AT,
        right_on=_SEEN,
        by=list(view.keys),
        strategy="backward",
        check_sortedness=False,
    )
    values = [pl.col(f"__{column}").alias(name) for column, name in view.columns.items()]
    if view.ttl is None:
        return joined.select(values)
    fresh = pl.col(_EVENT) >= pl.col(_AT) - view.ttl
    return joined.select(pl.when(fresh).then(value) for value in values)


def latest(view: FeatureRows, until: datetime) -> pl.LazyFrame:
    """For each entity the one row that answers at `until`, expired or not, with all the columns of the view's rows."""
    event, known = pl.col(view.event).cast(INSTANT), pl.col(view.created or view.event).cast(INSTANT)
    order = [view.event] + ([view.created] if view.created else [])
    return (
        view.rows.filter(event <= until, known <= until)
        .sort(order, maintain_order=True)
        .unique(list(view.keys), keep="last", maintain_order=True)
    )
