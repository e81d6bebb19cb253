"""The reader that serving uses: a model's feature values for rows of a request, at an instant, without Feast.

It follows a read plan: one read of the online store for all rows and views, values checked against their TTL and the
instant, on-demand functions called once for all rows. The values equal those of `historical_features` at the same
instant, as far as the store has been materialized. It knows nothing of HTTP or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec import DecodeError

from features.breaker import Breaker, StoreDownError
from features.on_demand import bind_functions, compute
from features.online_store import RowReader, Stored, is_live, micros, pack, prefix, unpack
from features.plan import ReadPlan, ViewPlan
from features.request import Row, column
from features.store import open_served_rows
from millrace.settings import Settings
from millrace.usecase import UseCase


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Each row's values in the plan's feature order, and the views that had nothing for it.

    `stale` has the few rows for which views had only expired values, `down` those for which the store did not answer,
    `refused` those of both that such a view refuses: the row's place to the views' names.
    """

    values: list[list[Any]]
    missing: list[tuple[str, ...]]
    stale: dict[int, list[str]] = field(default_factory=dict)
    down: dict[int, list[str]] = field(default_factory=dict)
    refused: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Gaps:
    """What the store could not answer, as `FeatureRows` tells it."""

    missing: list[list[str]]
    stale: dict[int, list[str]] = field(default_factory=dict)
    down: dict[int, list[str]] = field(default_factory=dict)
    refused: dict[int, list[str]] = field(default_factory=dict)

    def note(self, view: _View, rows: Sequence[Row], live: Sequence[Any], expired: set[int]) -> None:
        """Add a view's gaps; a row that brings all of its features itself has none."""
        for place, values in enumerate(live):
            if values is None and place not in expired and not view.names <= rows[place].keys():
                self.missing[place].append(view.name)
        for place in expired:
            if not view.names <= rows[place].keys():
                self.stale.setdefault(place, []).append(view.name)
                if view.policy == "refuse":
                    self.refused.setdefault(place, []).append(view.name)

    def note_down(self, view: _View, rows: Sequence[Row], keys: Sequence[bytes | None]) -> None:
        """Add a view that the store did not answer for; a row without an entity misses it whatever the store says."""
        for place, key in enumerate(keys):
            if view.names <= rows[place].keys():
                continue
            if key is None:
                self.missing[place].append(view.name)
                continue
            self.down.setdefault(place, []).append(view.name)
            if view.if_down == "refuse":
                self.refused.setdefault(place, []).append(view.name)


_BEGINNING = -(2**63)
"""Before every event, in microseconds."""


class Reader:
    """Reads rows by one plan. Opening it costs milliseconds: keep it. Threads may share it."""

    def __init__(self, plan: ReadPlan, use_case: UseCase, rows: RowReader) -> None:
        self.plan = plan
        self._rows = rows
        self._functions = bind_functions(plan, use_case)
        self._views = [_View(view) for view in plan.views]
        self._columns = [(name, dtype, plan.dependents(name)) for name, dtype in plan.row_types.items()]
        self._names = frozenset(plan.dtypes_of_all)

    def read(self, rows: Sequence[Row], *, at: datetime) -> FeatureRows:
        """The features of some rows as of `at` (UTC).

        A row brings the join keys and the request's inputs; a feature that it brings itself stands in place of the
        stored or computed one. Of a value past its TTL the view's policy decides: `serve` answers with it, `flag` and
        `refuse` with null, as in a training set; `stale` and `refused` say for which rows. While a store behind a
        breaker is down every stored value is null; `down` and `refused` say so. Raises `RequestError` (422, naming the
        field) for a column that is missing or of the wrong type, `FeatureError` when another store or an on-demand
        function fails.
        """
        columns = {name: column(rows, name, dtype, dependents) for name, dtype, dependents in self._columns}
        gaps = self._read_stored(rows, columns, micros(at))
        names = self._names
        given = {name for row in rows if not names.isdisjoint(row) for name in row.keys() & names}
        _override(columns, rows, given)
        for plan, function in self._functions:
            outputs = {feature.name for feature in plan.features}
            columns |= dict.fromkeys(outputs, [None] * len(rows))
            if not all(outputs <= row.keys() for row in rows):
                columns |= compute(plan, function, self.plan.join_keys, columns.__getitem__, len(rows))
            _override(columns, rows, given & outputs)
        values = [list(row) for row in zip(*(columns[name] for name in self.plan.features), strict=True)]
        return FeatureRows(values, [tuple(views) for views in gaps.missing], gaps.stale, gaps.down, gaps.refused)

    @property
    def is_down(self) -> bool:
        """Whether the store is not even asked, since it has failed and not answered again."""
        return isinstance(self._rows, Breaker) and self._rows.is_open

    def close(self) -> None:
        """Release the store."""
        self._rows.close()

    def _read_stored(self, rows: Sequence[Row], columns: dict[str, list[Any]], at: int) -> _Gaps:
        """Add the views' features to `columns`; what they had nothing for."""
        wanted = [view.keys(columns) for view in self._views]
        keys = list({key for keys in wanted for key in keys if key is not None})
        gaps = _Gaps([[] for _ in rows])
        try:
            found: dict[bytes | None, Stored | None] = dict(zip(keys, self._rows.read(keys), strict=True))
        except StoreDownError:
            for view, keys_of_view in zip(self._views, wanted, strict=True):
                columns |= view.columns([None] * len(rows))
                gaps.note_down(view, rows, keys_of_view)
            return gaps
        found[None] = None
        for view, keys_of_view in zip(self._views, wanted, strict=True):
            live, expired = view.live([found[key] for key in keys_of_view], at)
            columns |= view.columns(live)
            if expired or None in live:
                gaps.note(view, rows, live, expired)
        return gaps


class _View:
    """One view of the plan, unrolled for reading."""

    def __init__(self, plan: ViewPlan) -> None:
        self.name, self.policy, self.if_down = plan.name, plan.stale, plan.down
        self._features = [(feature.name, feature.position) for feature in plan.features]
        self._blank = [None] * (1 + max((feature.position for feature in plan.features), default=-1))
        self.names = frozenset(feature.name for feature in plan.features)
        self._join_keys = plan.join_keys
        self._prefix = prefix(plan.layout)
        self._ttl = None if plan.ttl is None else round(plan.ttl * 1_000_000)

    def keys(self, columns: dict[str, list[Any]]) -> list[bytes | None]:
        """The stored key of each row; None where a join key is null."""
        first, entities = self._prefix, zip(*(columns[name] for name in self._join_keys), strict=True)
        return [None if None in entity else first + pack(entity) for entity in entities]  # `entity_key`, twice as fast

    def live(self, rows: Sequence[Stored | None], at: int) -> tuple[list[list[Any] | None], set[int]]:
        """The values of the rows that answer at `at`, None for the others; the places of those that have expired."""
        ttl = self._ttl
        first = _BEGINNING if ttl is None else at - ttl
        try:
            values = [  # `is_live`, unrolled: half the time
                unpack(row[2]) if row is not None and first <= row[0] <= at and row[1] <= at else None for row in rows
            ]
        except DecodeError:  # a damaged row is no row, and nobody else's business
            return self.live([row if row is not None and _is_whole(row) else None for row in rows], at)
        expired = set[int]()
        if ttl is not None and None in values:
            expired = {
                place
                for place, (row, value) in enumerate(zip(rows, values, strict=True))
                if value is None and row is not None and is_live(row, at, None)
            }
        if self.policy == "serve":
            for place in expired:
                row = rows[place]
                values[place] = None if row is None else unpack(row[2])
        return values, expired

    def columns(self, live: Sequence[list[Any] | None]) -> dict[str, list[Any]]:
        """The plan's features of the rows' values; nulls where there are none."""
        blank = self._blank
        stored = list(zip(*[blank if values is None else values for values in live], strict=False))
        return {name: list(stored[position]) if stored else [] for name, position in self._features}


def open_reader(plan: ReadPlan, use_case: UseCase, settings: Settings) -> Reader:
    """A reader of the use case's online store that serving can rely on: bounded by `feature_ms`, behind a breaker.

    Raises `FeatureError` if the use case lacks a function of the plan.
    """
    return Reader(plan, use_case, Breaker(lambda: open_served_rows(use_case, settings)))


def _is_whole(row: Stored) -> bool:
    try:
        unpack(row[2])
    except DecodeError:
        return False
    return True


def _override(columns: dict[str, list[Any]], rows: Sequence[Row], names: set[str]) -> None:
    """Put the features that rows bring themselves in place of the stored or computed ones."""
    for name in names & columns.keys():
        columns[name] = [row.get(name, value) for row, value in zip(rows, columns[name], strict=True)]
