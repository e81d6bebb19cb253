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
_AT, _EVENT, _KNOWN, _SEEN, _PLACE = "__at", "__event", "__known", "__visible_from", "__place"


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
    keys = sorted({key for view in views for key in view.keys.values()})
    order = frame[at].arg_sort()
    back = order.arg_sort()
    left = frame.select(pl.col(at).cast(INSTANT).alias(_AT), *keys)[order]
    first, last = left[_AT].min(), left[_AT].max()
    columns: list[pl.Series] = []
    for view in views:
        rows = _read(view, first, last)  # type: ignore[arg-type]  # the extremes of a datetime column
        places = _answering(left, view, _visible(view, rows)).gather(back)
        columns += rows.select(
            pl.col(name).gather(places).alias(ours) for name, ours in view.columns.items()
        ).get_columns()
    return frame.with_columns(columns)


def _read(view: FeatureRows, first: datetime | None, last: datetime | None) -> pl.DataFrame:
    """The rows that can answer for an instant in [first, last]."""
    event, known = pl.col(view.event).cast(INSTANT), pl.col(view.created or view.event).cast(INSTANT)
    rows = view.rows.filter(event <= last, known <= last) if last is not None else view.rows
    if first is not None and view.ttl is not None:
        rows = rows.filter(event >= first - view.ttl)
    return rows.select(*view.keys, *view.columns, event.alias(_EVENT), known.alias(_KNOWN)).collect()


def _visible(view: FeatureRows, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows' keys, event time and place, sorted by when they become visible, without those that never answer."""
    narrow = rows.select(*view.keys, _EVENT, _KNOWN, pl.max_horizontal(_EVENT, _KNOWN).alias(_SEEN))
    narrow = narrow.with_row_index(_PLACE)
    # The usual case: tables lie as they became visible, and a constant delay lets each row raise its entity's latest
    # event. 200,000 rows take 1 ms so; sorting by one time 48, by three 105, and the filter 20 to 300 more.
    ordered = narrow if narrow[_SEEN].is_sorted() else narrow.sort(_SEEN, maintain_order=True)
    if not (ordered[_EVENT].is_sorted() and (narrow[_SEEN] == narrow[_KNOWN]).all()):
        ordered = narrow.sort(_SEEN, _EVENT, _KNOWN, maintain_order=True)
        ordered = ordered.filter(pl.col(_EVENT) == pl.col(_EVENT).cum_max().over(list(view.keys)))
    return ordered.drop(_KNOWN)


def _answering(left: pl.DataFrame, view: FeatureRows, right: pl.DataFrame) -> pl.Series:
    """For each row of `left` (sorted by its instants) the place of the row that answers; null if none does."""
    keys = [pl.col(ours).cast(right.schema[theirs]).alias(theirs) for theirs, ours in view.keys.items()]
    joined = left.select(_AT, *keys).join_asof(
        right, left_on=_AT, right_on=_SEEN, by=list(view.keys), strategy="backward", check_sortedness=False
    )
    if view.ttl is None:
        return joined[_PLACE]
    fresh = pl.col(_EVENT) >= pl.col(_AT) - view.ttl
    return joined.select(pl.when(fresh).then(_PLACE)).to_series()


def latest(view: FeatureRows, until: datetime) -> pl.DataFrame:
    """For each entity the one row that answers at `until`, with all the columns of the view's rows.

    A row that has expired by then is left out. The entities are in no order.
    """
    event, known = pl.col(view.event).cast(INSTANT), pl.col(view.created or view.event).cast(INSTANT)
    rows = view.rows.filter(event <= until, known <= until)
    if view.ttl is not None:
        rows = rows.filter(event >= until - view.ttl)
    found = rows.collect()
    narrow = found.select(*view.keys, event.alias(_EVENT), known.alias(_KNOWN)).with_row_index(_PLACE)
    places = narrow.sort(_EVENT, _KNOWN, maintain_order=True).group_by(list(view.keys)).agg(pl.col(_PLACE).last())
    return found[places[_PLACE]]
