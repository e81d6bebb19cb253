"""Pushing: rows of one feature view from outside, first into the lake, then to the online store.

A push is known by the digest of what was sent, so that the same one sent again is taken once: the lake commits its name
with its rows, and the rows keep the known time of the first time. A push that died between the lake and the online
store is completed by sending it again. Joins and materialization read the pushed rows beside the built ones
(`features.pushed`), so offline and online agree. This module imports no Feast and reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from features.asof import FeatureRows, latest
from features.catalog import ViewEntry, read_catalog
from features.entries import entries
from features.online_store import micros
from features.push_rows import checked, rows_of_file
from features.pushed import BATCH, PUSHED_AT, pushed_table
from features.request import Row
from features.store import open_rows
from millrace.digest import content_digest
from millrace.errors import FeatureError, LakeError, RequestError
from millrace.lake import Lake, open_lake
from millrace.settings import Settings
from millrace.source import EVENT_TIME, KNOWN_AT
from millrace.usecase import UseCase


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did: of its `rows`, how many the lake got (none if `repeated`: it had this very push already) and of
    how many entities one stands online now.

    An entity's row does not stand online when the store has one with a later event, when a build has one with the same
    two times, or before the row's time has come: then the next materialization brings it.
    """

    view: str
    rows: int
    written: int
    online: int
    repeated: bool


def push(use_case: UseCase, settings: Settings, view: str, rows: Sequence[Row] | Path, *, now: datetime) -> Pushed:
    """Take rows of a feature view, given as they are or as a CSV or Parquet file; `known_at` is `now` where not given.

    Raises `RequestError`, before anything is written, for an unknown view (404; without a feature store there is none),
    for rows that do not fit it (422) or
    the rows that were pushed when a feature had another type (409);
    `FeatureError` when the use case's feature repository has not been applied, or when the online store does not
    answer: then the rows are in the lake.
    """
    entry = _entry(use_case, settings, view)
    given = checked(entry, rows_of_file(entry, rows) if isinstance(rows, Path) else rows, now=now)
    lake, table = open_lake(settings, use_case.name), pushed_table(view)
    batch = f"push:{view}:{content_digest(given, [*entry.join_keys, EVENT_TIME, KNOWN_AT])}"
    frame = given.with_columns(
        pl.col(KNOWN_AT).fill_null(now),
        pl.lit(now).cast(pl.Datetime("us", "UTC")).alias(PUSHED_AT),
        pl.lit(batch).alias(BATCH),
    )
    try:
        commit = lake.append(table, frame, batch=batch, about=_about(frame))
    except LakeError as error:
        raise _refused(entry, error) from error
    if commit.repeated:
        frame = _taken(entry, lake, batch)
    if given[KNOWN_AT].null_count() < given.height:
        frame = _without_built(entry, lake, frame)
    online = _bring_online(use_case, settings, entry, frame, now)
    return Pushed(view, given.height, commit.rows, online, commit.repeated)


def _entry(use_case: UseCase, settings: Settings, view: str) -> ViewEntry:
    catalog = read_catalog(use_case, settings) if use_case.feature_repo is not None else ()
    entries = {entry.name: entry for entry in catalog}
    if view not in entries:
        raise RequestError(
            404,
            f"{use_case.name} has no online feature view of this name.",
            field="view",
            todo=f"It has {', '.join(entries) or 'none'}.",
        )
    if not entries[view].table.startswith("features/"):
        raise RequestError(
            422,
            f"The view {view} cannot be pushed to: its rows do not lie in the lake.",
            field="view",
            todo="Give the view the source of a feature table: source(table).",
        )
    return entries[view]


def _refused(entry: ViewEntry, error: LakeError) -> RequestError:
    return RequestError(
        409,
        f"Rows of {entry.name} were pushed when it had other types. {error.what}",
        field="view",
        looked=error.looked,
        todo="Give a feature whose type changes a new name.",
    )


def _about(frame: pl.DataFrame) -> dict[str, str]:
    """What the lake's history says of the commit: since and until when its rows were known."""
    known = frame[KNOWN_AT].to_list()
    return {"source": "push", "since": min(known).isoformat(), "until": max(known).isoformat()}


def _taken(entry: ViewEntry, lake: Lake, batch: str) -> pl.DataFrame:
    """The rows of a push that the lake has, as they were known then, less those that a later push replaced."""
    rows = lake.scan(pushed_table(entry.name)).sort(PUSHED_AT)
    standing = rows.unique([*entry.join_keys, EVENT_TIME, KNOWN_AT], keep="last", maintain_order=True)
    return standing.filter(pl.col(BATCH) == batch).collect()


def _without_built(entry: ViewEntry, lake: Lake, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows less those of which the feature table has one with the same entity and times: that one stands."""
    if not lake.exists(entry.table):
        return frame
    names = [*entry.join_keys, EVENT_TIME, KNOWN_AT]
    events = pl.col(EVENT_TIME).is_between(frame[EVENT_TIME].min(), frame[EVENT_TIME].max())
    built = lake.scan(entry.table).filter(events).select(pl.col(name).cast(frame.schema[name]) for name in names)
    return frame.lazy().join(built, on=names, how="anti", maintain_order="left").collect()


def _bring_online(use_case: UseCase, settings: Settings, entry: ViewEntry, frame: pl.DataFrame, now: datetime) -> int:
    """Write each entity's newest row that is visible by now; of how many entities one stands in the store."""
    keys, features = list(entry.join_keys), [name for name, _ in entry.features]
    rows = FeatureRows(frame.lazy(), {key: key for key in keys}, {}, EVENT_TIME, KNOWN_AT, ttl=None)
    newest = latest(rows, now)
    if newest.is_empty():
        return 0
    store = open_rows(use_case, settings)
    try:
        standing = store.write(entries(newest, entry.layout, keys, features, event=EVENT_TIME, known=KNOWN_AT))
        store.note_newest(entry.layout, max(map(micros, newest[EVENT_TIME])))
    except FeatureError as error:
        raise FeatureError(
            f"The rows are in the lake but not online yet: {error.what}",
            looked=error.looked,
            todo=f"Send the same rows again, or type: millrace materialize {use_case.name}",
        ) from error
    finally:
        store.close()
    return standing
