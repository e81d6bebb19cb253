"""Which stretch of a feature table the raw rows that are new to it can change.

New are the rows that its sources gained since the version that the last build read (so late ones count), and those that
have become known since the moment it was built for (so rows that were ingested ahead of time count once their time has
come). This module computes no features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from millrace.errors import LakeError
from millrace.lake import Lake
from millrace.source import EVENT_TIME, KNOWN_AT, Source

Span = tuple[datetime | None, datetime | None]


@dataclass(frozen=True, slots=True)
class Range:
    """Event times from `first` to `last`, both inclusive."""

    first: datetime
    last: datetime

    def of(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows in the range."""
        return rows.filter(pl.col(EVENT_TIME).is_between(self.first, self.last))


class NewRows:
    """Looks each source's new rows up once, however many feature tables read it."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._versions: dict[str, int] = {}
        self._spans: dict[tuple[str, int | None, datetime, datetime], Span] = {}

    def version(self, source: Source) -> int:
        """The newest version of a source's raw table, when it was first asked for."""
        if source.name not in self._versions:
            self._versions[source.name] = self._lake.version(f"raw/{source.name}")
        return self._versions[source.name]

    def touched(
        self,
        sources: Iterable[Source],
        lookback: timedelta,
        *,
        read: Mapping[str, int],
        before: datetime,
        as_of: datetime,
    ) -> Range | None:
        """The event times of feature rows that these sources' new rows can change; None if there are none.

        `read` are the versions that the last build read, `before` the moment it was built for. A raw row matters from
        its event time on until `lookback` after it, or after it became known if that was later.
        """
        spans = [self._span(source, read.get(source.name), before, as_of) for source in sources]
        firsts = [first for first, _ in spans if first is not None]
        lasts = [last for _, last in spans if last is not None]
        return Range(min(firsts), max(lasts) + lookback) if firsts else None

    def _span(self, source: Source, read: int | None, before: datetime, as_of: datetime) -> Span:
        key = (source.name, read, before, as_of)
        if key not in self._spans:
            self._spans[key] = self._look(source, read, before, as_of)
        return self._spans[key]

    def _look(self, source: Source, read: int | None, before: datetime, as_of: datetime) -> Span:
        raw, known = f"raw/{source.name}", pl.col(KNOWN_AT)
        rows = [self._lake.scan(raw).filter(known > before)]
        if read != self.version(source):
            try:
                rows.append(self._lake.scan(raw) if read is None else self._lake.changes(raw, since=read))
            except LakeError:  # that version was vacuumed: every row may be new
                rows.append(self._lake.scan(raw))
        last = pl.max_horizontal(pl.col(EVENT_TIME).max(), known.max())
        spans = [
            part.filter(known <= as_of).select(pl.col(EVENT_TIME).min().alias("first"), last.alias("last"))
            for part in rows
        ]
        found = pl.concat(spans).collect()
        return found["first"].min(), found["last"].max()  # type: ignore[return-value]  # the extremes of datetime columns
