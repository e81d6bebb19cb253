"""The reader that serving uses: a model's feature values for rows of a request, at an instant, without Feast.

It follows a read plan: one read of the online store for all rows and views, values checked against their TTL and the
instant, on-demand functions called once for all rows. The values equal those of `historical_features` at the same
instant, as far as the store has been materialized. It knows nothing of HTTP or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from features.on_demand import bind_functions, compute
from features.online_store import RowStore, Stored, entity_key, is_live, micros, prefix, unpack
from features.plan import ReadPlan, ViewPlan
from features.request import Row, column
from features.store import open_rows
from millrace.settings import Settings
from millrace.usecase import UseCase


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Each row's values in the plan's feature order, and the views that had nothing for it (absent or expired)."""

    values: list[list[Any]]
    missing: list[tuple[str, ...]]


class Reader:
    """Reads rows by one plan. Opening it costs milliseconds: keep it. Threads may share it."""

    def __init__(self, plan: ReadPlan, use_case: UseCase, rows: RowStore) -> None:
        self.plan = plan
        self._rows = rows
        self._functions = bind_functions(plan, use_case)
        self._views = [_View(view) for view in plan.views]
        self._columns = [(name, dtype, plan.dependents(name)) for name, dtype in plan.row_types.items()]
        self._names = frozenset(plan.dtypes_of_all)

    def read(self, rows: Sequence[Row], *, at: datetime) -> FeatureRows:
        """The features of some rows as of `at` (UTC).

        A row brings the join keys and the request's inputs; a feature that it brings itself stands in place of the
        stored or computed one. Raises `RequestError` (422, naming the field) for a column that is missing or of the
        wrong type, `FeatureError` when the store or an on-demand function fails.
        """
        columns = {name: column(rows, name, dtype, dependents) for name, dtype, dependents in self._columns}
        missing = self._read_stored(rows, columns, micros(at))
        given = {name for row in rows for name in row.keys() & self._names}
        _override(columns, rows, given)
        for plan, function in self._functions:
            outputs = {feature.name for feature in plan.features}
            columns |= dict.fromkeys(outputs, [None] * len(rows))
            if not all(outputs <= row.keys() for row in rows):
                columns |= compute(plan, function, self.plan.join_keys, columns.__getitem__, len(rows))
            _override(columns, rows, given & outputs)
        values = [list(row) for row in zip(*(columns[name] for name in self.plan.features), strict=True)]
        return FeatureRows(values, [tuple(views) for views in missing])

    def close(self) -> None:
        """Release the store."""
        self._rows.close()

    def _read_stored(self, rows: Sequence[Row], columns: dict[str, list[Any]], at: int) -> list[list[str]]:
        """Add the views' features to `columns`; the names of the views that each row misses."""
        wanted = [view.keys(columns) for view in self._views]
        keys = list({key for keys in wanted for key in keys if key is not None})
        found = dict(zip(keys, self._rows.read(keys), strict=True))
        missing: list[list[str]] = [[] for _ in rows]
        for view, keys_of_view in zip(self._views, wanted, strict=True):
            live = view.live([None if key is None else found[key] for key in keys_of_view], at)
            for name, position in view.features:
                columns[name] = [None if values is None else values[position] for values in live]
            for place, values in enumerate(live):
                if values is None and not view.names <= rows[place].keys():
                    missing[place].append(view.name)
        return missing


class _View:
    """One view of the plan, unrolled for reading."""

    def __init__(self, plan: ViewPlan) -> None:
        self.name = plan.name
        self.features = [(feature.name, feature.position) for feature in plan.features]
        self.names = frozenset(feature.name for feature in plan.features)
        self._join_keys = plan.join_keys
        self._prefix = prefix(plan.layout)
        self._ttl = None if plan.ttl is None else round(plan.ttl * 1_000_000)

    def keys(self, columns: dict[str, list[Any]]) -> list[bytes | None]:
        """The stored key of each row; None where a join key is null."""
        entities = zip(*(columns[name] for name in self._join_keys), strict=True)
        return [None if None in entity else entity_key(self._prefix, entity) for entity in entities]

    def live(self, rows: Sequence[Stored | None], at: int) -> list[list[Any] | None]:
        """The values of the rows that answer at `at`; None for the others."""
        ttl = self._ttl
        return [unpack(row[2]) if row is not None and is_live(row, at, ttl) else None for row in rows]


def open_reader(plan: ReadPlan, use_case: UseCase, settings: Settings) -> Reader:
    """A reader of the use case's online store. Raises `FeatureError` if the use case lacks a function of the plan."""
    return Reader(plan, use_case, open_rows(use_case, settings))


def _override(columns: dict[str, list[Any]], rows: Sequence[Row], names: set[str]) -> None:
    """Put the features that rows bring themselves in place of the stored or computed ones."""
    for name in names & columns.keys():
        columns[name] = [row.get(name, value) for row, value in zip(rows, columns[name], strict=True)]
