"""What a source's rows were like so far: the stretches of the lake before a batch, each as long as the batch's range.

It reads only the rows of the last weeks and only the columns that are asked for, and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from millrace.lake import Lake
from millrace.source import EVENT_TIME, KNOWN_AT

STRETCHES = 8
"""How many stretches before the batch are looked at."""
LOOK_BACK = timedelta(days=28)
"""How far back is looked at least, so that an hour is compared with nights and weekends too."""
LEAST = timedelta(days=20)
"""How long the rows so far must reach back to be compared with: three weekly batches, of which the first row may come
hours after their start."""
STRETCH = "__stretch"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Past:
    """The rows before a batch, `rows` with their stretch's number (0 is the newest), and what is known of all.

    `fewest` is the fewest rows of a stretch and `height` those of all; `silence` the longest time without a row, `last`
    the newest row's `known_at`, `lead` how far an event lay after its `known_at` (negative: always before it).
    """

    rows: pl.LazyFrame
    since: datetime
    stretches: int
    fewest: int
    height: int
    silence: timedelta
    last: datetime
    lead: timedelta


def read_past(lake: Lake, table: str, since: datetime, until: datetime) -> Past | None:
    """What the table has of the weeks before `since`, cut into stretches as long as from `since` to `until`.

    None when it reaches back less than twenty days or two stretches: then there is nothing to compare a batch with.
    """
    length = until - since
    if length <= timedelta(0) or since - _EPOCH < max(LEAST, length) or not lake.exists(table):
        return None
    window = max(STRETCHES, -(-LOOK_BACK // length)) * length
    start = since - min(window, since - _EPOCH)
    stored = lake.scan(table)
    rows = stored.filter(pl.col(KNOWN_AT) > start, pl.col(KNOWN_AT) <= since)
    times = rows.select(KNOWN_AT, EVENT_TIME).sort(KNOWN_AT).collect()
    if times.is_empty():
        return None
    earlier = not stored.filter(pl.col(KNOWN_AT) <= start).select(KNOWN_AT).head(1).collect().is_empty()
    reaches = since - (start if earlier else times[KNOWN_AT].item(0))
    if reaches < LEAST or round(reaches / length) < 2:
        return None
    return _described(rows, times, since, reaches, length)


def _described(rows: pl.LazyFrame, times: pl.DataFrame, since: datetime, reaches: timedelta, length: timedelta) -> Past:
    number = (pl.lit(since) - pl.col(KNOWN_AT)).dt.total_microseconds() // (length // timedelta(microseconds=1))
    stretches = round(reaches / length)
    counts = times.select(number.alias(STRETCH)).filter(pl.col(STRETCH) < stretches).group_by(STRETCH).len()
    silence, last, lead = times.select(
        silence=pl.col(KNOWN_AT).diff().max().fill_null(timedelta(0)),
        last=pl.col(KNOWN_AT).last(),
        lead=(pl.col(EVENT_TIME) - pl.col(KNOWN_AT)).max(),
    ).row(0)
    return Past(
        rows=rows.with_columns(number.cast(pl.Int32).alias(STRETCH)),
        since=since - reaches,
        stretches=stretches,
        fewest=min(counts["len"].to_list()) if counts.height == stretches else 0,
        height=times.height,
        silence=max(silence, since - last),
        last=last,
        lead=lead,
    )
