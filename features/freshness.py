"""How fresh each online view is: its newest event, its age against the TTL, who is live, how much is null.

Everything is read from the online store itself and the catalog, so it is what serving would find; no Feast is imported.
A full look reads every stored row; `newest_events` is cheap enough for a server to ask every half a minute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from features.catalog import ViewEntry, read_catalog
from features.online_store import RowStore, Stored, instant, is_live, micros, unpack
from features.store import check_store, open_rows
from features.views import Stale
from millrace.settings import Settings
from millrace.usecase import UseCase

State = Literal["fresh", "stale", "empty"]
"""`fresh`: some entity has a value that has not expired; `stale`: all have expired; `empty`: there is none."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """One online view as of a moment.

    `newest` is its newest event by then (None: it has none), `age_s` how long ago that was and `age_of_ttl` that as a
    part of `ttl_s` (None: it never expires). Of `entities` stored, `live` have a value that answers; `nulls` is the
    share of nulls among their values. `materialized_to` says how far the view has been written, `stale` what serving
    does with an expired value.
    """

    view: str
    state: State
    newest: datetime | None
    age_s: float | None
    ttl_s: float | None
    age_of_ttl: float | None
    entities: int
    live: int
    nulls: float | None
    materialized_to: datetime | None
    stale: Stale

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def as_line(self) -> dict[str, str]:
        """For people: what matters most, in few columns."""
        limit = "" if self.ttl_s is None else f" of {self.ttl_s / 3600:.4g}"
        return {
            "view": self.view,
            "state": self.state,
            "newest": "-" if self.newest is None else f"{self.newest:%Y-%m-%d %H:%M}",
            "age_h": "-" if self.age_s is None else f"{self.age_s / 3600:.3g}{limit}",
            "live": f"{self.live:,} of {self.entities:,}",
            "nulls": "-" if self.nulls is None else f"{self.nulls:.1%}",
            "if_stale": self.stale,
        }


def freshness(use_case: UseCase, settings: Settings, *, as_of: datetime) -> list[Freshness]:
    """Every online view of the use case as of a moment, in the order of their names.

    The store keeps the newest row of an entity only: as of an earlier moment it shows what a read then would find.
    Raises `FeatureError` when the views have not been applied or the store does not answer, `UseCaseError` when the use
    case has no feature store.
    """
    check_store(use_case)
    rows = open_rows(use_case, settings)
    try:
        return [_freshness(entry, rows, as_of) for entry in read_catalog(use_case, settings)]
    finally:
        rows.close()


def newest_events(use_case: UseCase, settings: Settings) -> dict[ViewEntry, datetime]:
    """The newest event that has been written of each online view; a view without one is left out. Errors as above."""
    check_store(use_case)
    rows = open_rows(use_case, settings)
    try:
        found = {entry: rows.newest(entry.layout) for entry in read_catalog(use_case, settings)}
    finally:
        rows.close()
    return {entry: instant(event) for entry, event in found.items() if event is not None}


@dataclass(slots=True)
class _Count:
    """What the rows of a view come to."""

    entities: int = 0
    newest: int | None = None
    live: int = 0
    nulls: int = 0

    def add(self, stored: Iterable[Stored], at: int, ttl: int | None) -> None:
        for row in stored:
            self.entities += 1
            if not is_live(row, at, None):
                continue
            self.newest = row[0] if self.newest is None else max(self.newest, row[0])
            if is_live(row, at, ttl):
                self.live += 1
                self.nulls += sum(value is None for value in unpack(row[2]))


def _freshness(entry: ViewEntry, rows: RowStore, as_of: datetime) -> Freshness:
    count, mark = _Count(), rows.mark(entry.layout)
    count.add(rows.scan(entry.layout), micros(as_of), None if entry.ttl is None else round(entry.ttl * 1_000_000))
    newest = None if count.newest is None else instant(count.newest)
    age = None if newest is None else (as_of - newest).total_seconds()
    values = count.live * len(entry.features)
    return Freshness(
        view=entry.name,
        state="fresh" if count.live else "empty" if newest is None else "stale",
        newest=newest,
        age_s=age,
        ttl_s=entry.ttl,
        age_of_ttl=None if age is None or entry.ttl is None else age / entry.ttl,
        entities=count.entities,
        live=count.live,
        nulls=count.nulls / values if values else None,
        materialized_to=None if mark is None else mark.as_of,
        stale=entry.stale,
    )
