"""Where one feature value comes from: from the value back to its view, its table's build, and the source batches.

The value is the one that a point-in-time join at the moment sees. The row that holds it names the build that wrote it,
the build the raw versions that it read, and those the raw rows that can have gone into it: of the same entity where the
raw table has its columns, within the table's lookback, known by the time the feature row was. Which batches brought
those rows is read from the lake's history: exactly while the files of their commits are there, by their range else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features.asof import INSTANT, FeatureRows, join_asof
from features.catalog import ViewEntry, read_catalog
from features.online_store import entity_key, instant, is_live, micros, prefix, unpack
from features.pushed import BATCH, PUSHED_AT, pushed_table, with_pushed
from features.store import open_rows
from features.tables import BuildMarks, build_marks, table_name
from features.views import POLARS_TYPES
from millrace.errors import FeatureError, LakeError
from millrace.lake.origin import Origin, origins
from millrace.source import EVENT_TIME, KNOWN_AT, Source
from millrace.usecase import FeatureTable
from pipelines.upkeep import plain
from pipelines.workspace import Workspace

_AT, _VALUE, _EVENT, _KNOWN = "__at", "value", "event", "known"


@dataclass(frozen=True, slots=True)
class _Found:
    """The row that answers: its value and two times; `expired`: it answered until its TTL had passed."""

    value: Any
    event: datetime
    known: datetime
    expired: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is traced: one feature of one view, for one entity, at a moment."""

    ws: Workspace
    view: ViewEntry
    feature: str
    key: Mapping[str, Any]
    as_of: datetime

    def of_entity(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """The rows of this entity, by those of its columns that they have."""
        columns = rows.collect_schema()
        return rows.filter(pl.col(name) == value for name, value in self.key.items() if name in columns)


def trace_feature(ws: Workspace, name: str, key: Mapping[str, str], *, as_of: datetime) -> dict[str, Any]:
    """Trace the feature `VIEW:FEATURE` of the entity `key` (its join keys, as text) as of a moment.

    `offline` is the value that training sees then, `online` the one that the online store has now. Raises
    `FeatureError` for an unknown view or feature, a key that is not the view's, and a view that the lake does not hold.
    """
    asked = _ask(ws, name, key, as_of)
    shown: dict[str, Any] = {"feature": name, "key": dict(asked.key), "as_of": as_of, "table": asked.view.table}
    found = _answer(asked, expired=False) or _answer(asked, expired=True)
    if found is None:
        return shown | {"state": "never known by then", "offline": None} | _online(asked)
    shown |= {
        "state": "expired" if found.expired else "known",
        "offline": None if found.expired else plain(found.value),
    }
    shown |= {"row_value": plain(found.value), "event_time": found.event, "known_at": found.known} | _online(asked)
    pushes = _pushes(asked, found)
    if pushes:
        return shown | {"came_by": "push", "batches": pushes}
    return shown | _built(asked, found)


def _ask(ws: Workspace, name: str, key: Mapping[str, str], as_of: datetime) -> _Asked:
    view_name, _, feature = name.partition(":")
    views = {view.name: view for view in read_catalog(ws.use_case, ws.settings)}
    view = views.get(view_name)
    features = [f"{one.name}:{of}" for one in views.values() for of, _ in one.features]
    if view is None or feature not in dict(view.features):
        raise FeatureError(f"There is no feature {name!r}.", looked=f"There are {', '.join(features)}.")
    if not view.table:
        raise FeatureError(f"The view {view.name!r} does not read the lake.", looked=f"Its source is {view.path}.")
    if set(key) != set(view.join_keys):
        todo = " ".join(f"--key {column}=…" for column in view.join_keys)
        raise FeatureError(
            f"The entity of the view {view.name!r} is not named by {', '.join(key) or 'no key'}.", todo=todo
        )
    typed = {
        column: _typed(column, key[column], dtype) for column, dtype in zip(view.join_keys, view.key_types, strict=True)
    }
    return _Asked(ws, view, feature, typed, as_of)


def _typed(column: str, text: str, dtype: str) -> Any:
    try:
        return pl.Series([text]).cast(POLARS_TYPES.get(dtype, pl.String()))[0]
    except pl.exceptions.PolarsError as error:
        raise FeatureError(f"The key {column}={text!r} is no {dtype}, as the view declares it.") from error


def _answer(asked: _Asked, *, expired: bool) -> _Found | None:
    """The row that a point-in-time join at the moment sees, or, when asked, would see without its TTL."""
    view, created = asked.view, asked.view.created or asked.view.event
    columns = list(dict.fromkeys([*view.join_keys, asked.feature, view.event, created]))
    options = asked.ws.lake.options
    rows = with_pushed(asked.ws.lake.scan(view.table), view.name, columns, table=view.path, options=options)
    names = {asked.feature: _VALUE, view.event: _EVENT, created: _KNOWN}
    features = FeatureRows(
        rows=asked.of_entity(rows),
        keys={name: name for name in view.join_keys},
        columns={view.event: _EVENT} if created == view.event else names,
        event=view.event,
        created=view.created,
        ttl=None if expired else view.lifetime,
    )
    frame = pl.DataFrame([dict(asked.key)]).with_columns(pl.lit(asked.as_of).cast(INSTANT).alias(_AT))
    found = join_asof(frame, _AT, [features]).to_dicts()[0]
    if found[_EVENT] is None:
        return None
    return _Found(found[_VALUE], found[_EVENT], found[_KNOWN], expired)


def _online(asked: _Asked) -> dict[str, Any]:
    """What the online store has of the entity, and whether it would be served at the moment."""
    view, store = asked.view, open_rows(asked.ws.use_case, asked.ws.settings)
    try:
        stored = store.read([entity_key(prefix(view.layout), [asked.key[name] for name in view.join_keys])])[0]
    finally:
        store.close()
    if stored is None:
        return {"online": None, "online_state": "not in the online store"}
    position = [name for name, _ in view.features].index(asked.feature)
    ttl = None if view.ttl is None else round(view.ttl * 1_000_000)
    live = is_live(stored, micros(asked.as_of), ttl)
    state = "answers then" if live else "does not answer then: later, or expired"
    return {
        "online": plain(unpack(stored[2])[position]),
        "online_event_time": instant(stored[0]),
        "online_state": state,
    }


def _this_row(asked: _Asked, rows: pl.LazyFrame, found: _Found) -> pl.LazyFrame:
    view = asked.view
    times = [pl.col(view.event) == found.event, pl.col(view.created or view.event) == found.known]
    same = pl.col(asked.feature).eq_missing(pl.lit(found.value))
    return asked.of_entity(rows).filter(*times, same)


def _pushes(asked: _Asked, found: _Found) -> list[dict[str, Any]]:
    """The pushes that brought the row, if any did."""
    table, lake = pushed_table(asked.view.name), asked.ws.lake
    if not lake.exists(table):
        return []
    rows = _this_row(asked, lake.scan(table), found).select(PUSHED_AT, BATCH).sort(PUSHED_AT).collect()
    return [{"table": table, "batch": batch, "ingested_at": at} for at, batch in rows.rows()]


def _built(asked: _Asked, found: _Found) -> dict[str, Any]:
    """The build that wrote the row, the raw versions it read, and the batches that brought what it can be made of."""
    table = next((one for one in asked.ws.use_case.feature_tables if table_name(one) == asked.view.table), None)
    version, exact = _written_in(asked, found)
    marks = None if table is None else build_marks(table, asked.ws.lake, version=version)
    shown: dict[str, Any] = {"came_by": "build", "version": version, "version_is": "exact" if exact else "or earlier"}
    if table is None or marks is None:
        return shown
    raw: list[dict[str, Any]] = []
    batches: list[dict[str, Any]] = []
    for source in table.reads:
        line, brought = _contributed(asked, found, table, source, marks)
        raw.append(line)
        batches += map(_batch, brought)
    return shown | {"built_as_of": marks.as_of, "reads": raw, "batches": batches}


def _written_in(asked: _Asked, found: _Found) -> tuple[int, bool]:
    """The first version since which the table has the row as it is, and whether the one before it could be read.

    Found by halving, as a row that has been written stays: thirteen looks for a year of hourly builds.
    """
    lake, table = asked.ws.lake, asked.view.table

    first, last, exact = 0, lake.version(table), True
    while first < last:
        middle = (first + last) // 2
        try:
            there = not _this_row(asked, lake.scan(table, version=middle), found).collect().is_empty()
        except (LakeError, pl.exceptions.ColumnNotFoundError):  # vacuumed, or from before the feature was declared
            first, exact = middle + 1, False
            continue
        if there:
            last = middle
        else:
            first, exact = middle + 1, True
    return last, exact


def _contributed(
    asked: _Asked, found: _Found, table: FeatureTable, source: Source, marks: BuildMarks
) -> tuple[dict[str, Any], list[Origin]]:
    """What a source's raw table gave: a line of it, and the batches that brought it."""
    lake, name = asked.ws.lake, f"raw/{source.name}"
    version = marks.read.get(source.name, lake.version(name))
    try:
        rows = lake.scan(name, version=version)
        line: dict[str, Any] = {"table": name, "version": version, "readable": True}
    except LakeError:  # vacuumed: what it had is in the newest version, or has been corrected since
        rows = lake.scan(name)
        line = {"table": name, "version": version, "readable": False}
    taken = _within(asked.of_entity(rows), found, table).select(*source.key, KNOWN_AT).collect()
    matched = [column for column in asked.key if column in rows.collect_schema()]
    line |= {"rows": taken.height, "entity_by": ", ".join(matched) or "nothing: every row counts"}
    brought = origins(lake, name, taken, version=version if line["readable"] else lake.version(name))
    return line, brought


def _within(rows: pl.LazyFrame, found: _Found, table: FeatureTable) -> pl.LazyFrame:
    """The raw rows that matter to a feature row: from their event on until the lookback after it, or after it became
    known if that was later."""
    rows = rows.filter(pl.col(EVENT_TIME) <= found.event, pl.col(KNOWN_AT) <= found.known)
    if table.lookback is None:
        return rows
    return rows.filter(pl.max_horizontal(EVENT_TIME, KNOWN_AT) + table.lookback >= found.event)


def _batch(one: Origin) -> dict[str, Any]:
    return {
        "batch": one.commit.batch,
        "ingested_at": one.commit.at,
        "version": one.commit.number,
        "rows": one.rows,
        "found": "exactly" if one.exact else "by its range",
    }
