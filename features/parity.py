"""Parity: training rows asked again online, value by value.

The rows are replayed in the order of their instants against an empty online store of the kind that serves. Before each
instant the store gets what became visible since the last, as a materialization just then would write it; then serving's
own reader answers the row alone. What it answers must be what the row was trained on: exactly, not nearly. An entity's
rows that no replayed row asks for are left out, and of several that became visible between two of its questions only
the newest is written, as in a materialization. A view's policy for stale values is read as `flag`, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from struct import Struct
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import polars as pl

from features.asof import INSTANT
from features.entries import entries
from features.online import Reader
from features.online_store import Entry, RowStore, micros
from features.plan import ReadPlan, ViewPlan, read_plan
from features.store import open_rows, open_store
from features.training_set import historical_features, training_rows
from features.views import feature_rows, join_keys, stored_features, view_layout
from millrace.errors import RequestError
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase

_TOLD = 10
"""Mismatches that are told in full; the others are counted."""
_AT, _DUE, _EVENT, _KNOWN = "__at", "__due", "__event", "__known"
_FLOAT32 = Struct("f")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A value that the online path gives otherwise than the training set has it.

    `at` is the row's instant (UTC), `keys` what it is found by. A row that the online path refuses is one mismatch of
    the view `request`; `online` then says why.
    """

    view: str
    feature: str
    keys: dict[str, Any]
    at: datetime
    offline: Any
    online: Any

    def __str__(self) -> str:
        keys = ", ".join(f"{name} {value}" for name, value in self.keys.items())
        return (
            f"{self.feature} of {self.view} for {keys} at {self.at:%Y-%m-%d %H:%M} UTC is {self.offline!r} offline and "
            f"{self.online!r} online"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        values = {name: str(value) if value != value else value for name, value in asdict(self).items()}
        return values | {"at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class Parity:
    """What a replay came to: its rows and values, how many values differ, and the first ten of those."""

    rows: int
    values: int
    mismatches: int
    first: tuple[Mismatch, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether not one value differs."""
        return self.mismatches == 0

    def __str__(self) -> str:
        if self.holds:
            return f"Asked again online, {self.rows:,} training rows give the same {self.values:,} feature values."
        return (
            f"Asked again online, {self.mismatches:,} of the {self.values:,} feature values of {self.rows:,} training "
            f"rows differ; {self.first[0]}."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"seconds": round(self.seconds, 3), "first": [one.as_dict() for one in self.first]}


def training_parity(
    use_case: UseCase, settings: Settings, lake: Lake, *, rows: int, as_of: datetime, seed: int = 0
) -> Parity:
    """Replay a seeded sample of the rows that a training at `as_of` (UTC) would learn from.

    Raises `NoDataError` when there are none, `FeatureError` when the views have not been applied or built.
    """
    since = as_of - use_case.training.history
    labelled, _ = training_rows(use_case, lake, since=since, until=as_of, as_of=as_of)
    sample = historical_features(use_case, settings, sampled(labelled, rows, seed=seed))
    return replayed(use_case, settings, read_plan(use_case, open_store(use_case, settings)), sample)


def sampled(frame: pl.DataFrame, rows: int, *, seed: int = 0) -> pl.DataFrame:
    """Up to `rows` rows of a frame, in its order."""
    places = pl.int_range(frame.height, eager=True).sample(min(rows, frame.height), seed=seed)
    return frame[places.sort()]


def replayed(use_case: UseCase, settings: Settings, plan: ReadPlan, frame: pl.DataFrame) -> Parity:
    """Ask for each row of a training frame online, as of its `event_time`, and compare with the features it has.

    Raises `FeatureError` when the online store does not answer or an on-demand function fails.
    """
    began = perf_counter()
    asked = frame.sort(EVENT_TIME, maintain_order=True)
    requests = asked.select(list(plan.row_types)).to_dicts()
    offline = asked.select(plan.features).rows()
    due = _due(use_case, settings, plan, asked)
    found = list[Mismatch]()
    with _empty_store(use_case, settings, plan) as store:
        compared = _Compared(plan, Reader(_flagging(plan), use_case, store))
        for at, row, values in zip(asked[EVENT_TIME], requests, offline, strict=True):
            if entered := due.pop(micros(at), None):
                store.write(entered)
            found += compared.differences(at, row, values)
    values_asked = asked.height * len(plan.features)
    return Parity(asked.height, values_asked, len(found), tuple(found[:_TOLD]), perf_counter() - began)


@contextmanager
def _empty_store(use_case: UseCase, settings: Settings, plan: ReadPlan) -> Iterator[RowStore]:
    """An online store of the configured kind that nobody else sees, gone afterwards."""
    with TemporaryDirectory(prefix="millrace-parity-") as folder:
        prefix = f"{settings.redis_prefix}:{Path(folder).name}"
        store = open_rows(use_case, settings.model_copy(update={"home": Path(folder), "redis_prefix": prefix}))
        try:
            yield store
        finally:
            for layout in {view.layout for view in plan.views}:
                store.drop(layout.rpartition(".")[0])
            store.close()


def _flagging(plan: ReadPlan) -> ReadPlan:
    return replace(plan, views=tuple(replace(view, stale="flag") for view in plan.views))


def _due(use_case: UseCase, settings: Settings, plan: ReadPlan, asked: pl.DataFrame) -> dict[int, list[Entry]]:
    """What is to be written before the rows of an instant are asked, by the instant in microseconds."""
    known = {view_layout(view): view for view in open_store(use_case, settings).list_feature_views()}
    due: dict[int, list[Entry]] = {}
    for layout in dict.fromkeys(view.layout for view in plan.views):
        plans = [view for view in plan.views if view.layout == layout]
        moments, rows = _due_of_view(known[layout], plans, asked, settings.lake_options)
        for moment, entry in zip(moments, rows, strict=True):
            due.setdefault(moment, []).append(entry)
    return due


def _due_of_view(
    view: Any, plans: Sequence[ViewPlan], asked: pl.DataFrame, options: dict[str, str]
) -> tuple[list[int], list[Entry]]:
    """A view's rows to write, each with the instant before which it is due: the next at which its entity is asked for.

    Of those that one instant brings for one entity only the newest is written.
    """
    keys, features = join_keys(view), [name for name, _ in stored_features(view)]
    table = feature_rows(view, dict.fromkeys(features, ""), options)
    questions = _questions(plans, asked, table.rows.select(keys).collect_schema())
    event, known = pl.col(table.event).cast(INSTANT), pl.col(table.created or table.event).cast(INSTANT)
    rows = table.rows.select(*keys, *features, event.alias(_EVENT), known.alias(_KNOWN))
    rows = rows.join(questions.lazy().select(keys), on=keys, how="semi", maintain_order="left")
    ordered = rows.with_columns(pl.max_horizontal(_EVENT, _KNOWN).alias(_DUE)).collect()
    joined = ordered.sort(_DUE, maintain_order=True).join_asof(
        questions, left_on=_DUE, right_on=_AT, by=keys, strategy="forward", check_sortedness=False, coalesce=False
    )
    newest = joined.drop_nulls(_AT).sort(_AT, _EVENT, _KNOWN, maintain_order=True)
    newest = newest.unique([*keys, _AT], keep="last", maintain_order=True)
    written = entries(newest, view_layout(view), keys, features, event=_EVENT, known=_KNOWN)
    return newest[_AT].dt.epoch("us").to_list(), written


def _questions(plans: Sequence[ViewPlan], asked: pl.DataFrame, keys: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The entities of a view that the rows ask for, under its own names of the `keys`, and each instant they do so."""
    at = pl.col(EVENT_TIME).cast(INSTANT).alias(_AT)
    named = [zip(keys.items(), plan.join_keys, strict=True) for plan in plans]
    columns = [[pl.col(of).cast(dtype).alias(key) for (key, dtype), of in pairs] for pairs in named]
    return pl.concat(asked.select(at, *one) for one in columns).drop_nulls().unique().sort(_AT)


class _Compared:
    """A reader's answers beside what the rows were trained on."""

    def __init__(self, plan: ReadPlan, reader: Reader) -> None:
        self._reader, self._join_keys, self._types = reader, plan.join_keys, plan.dtypes
        stored = {feature.name: (view.name, view.join_keys) for view in plan.views for feature in view.features}
        computed = {feature.name: (view.name, plan.join_keys) for view in plan.on_demand for feature in view.features}
        self._views = stored | computed

    def differences(self, at: datetime, row: dict[str, Any], offline: Sequence[Any]) -> Iterator[Mismatch]:
        """Where the reader's answer to one row differs."""
        try:
            online = self._reader.read([row], at=at).values[0]
        except RequestError as error:
            name = (error.field or "").rpartition(".")[2]
            yield Mismatch("request", name, {key: row[key] for key in self._join_keys}, at, row.get(name), error.what)
            return
        for (name, dtype), ours, theirs in zip(self._types.items(), offline, online, strict=True):
            if not _same(dtype, ours, theirs):
                view, keys = self._views[name]
                yield Mismatch(view, name, {key: row[key] for key in keys}, at, ours, theirs)


def _same(dtype: str, offline: Any, online: Any) -> bool:
    """Whether both are the same value of the declared type; NaN is NaN."""
    if dtype == "Float32" and isinstance(online, float):
        online = _FLOAT32.unpack(_FLOAT32.pack(online))[0]
    return bool(offline == online) or (offline != offline and online != online)  # NaN differs from itself
