"""The quarantine: rows that broke their source's schema, why, and their way back once the schema is right.

A row lies there once, however often it is read again, by a digest of its source and content; as JSON with its types
beside it, since its columns may be of any type. A replay first merges the rows that pass today's schema into the raw
table and then takes them out: a crash between the two leaves rows in both, and the next replay finds them merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import polars as pl

from millrace.digest import content_digest
from millrace.errors import NoDataError, SourceError
from millrace.lake import Commit, Lake
from millrace.source import EVENT_TIME, KNOWN_AT, Source
from pipelines.ingest.row_json import read_rows, read_schema, write_rows, write_schema
from pipelines.ingest.validate import REASONS, row_faults

_ID = "id"
_INSTANT = pl.Datetime("us", "UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: dict[str, Any] = {
    EVENT_TIME: _INSTANT,
    KNOWN_AT: _INSTANT,
    REASONS: pl.List(pl.String),
    _ID: pl.String,
    "quarantined_at": _INSTANT,
    "batch": pl.String,
    "row": pl.String,
    "schema": pl.String,
}


@dataclass(frozen=True, slots=True)
class Held:
    """The rows of one batch in quarantine: how many, their commonest reasons with counts, and since when.

    `batch` is the digest that ends the batch's name in the lake's history.
    """

    source: str
    batch: str
    rows: int
    reasons: tuple[str, ...]
    quarantined_at: datetime


@dataclass(frozen=True, slots=True)
class HeldRow:
    """One row in quarantine: its batch's digest, what is wrong with which column, and the row itself as JSON."""

    source: str
    batch: str
    known_at: datetime
    reasons: tuple[str, ...]
    row: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did with one source's rows: `passed` satisfy today's schema and left the quarantine, `kept` stay.

    `written` of them were new, or newer than what the raw table had; `version` is that table's afterwards, None when no
    row passed.
    """

    source: str
    rows: int
    passed: int
    written: int
    kept: int
    reasons: tuple[str, ...]
    version: int | None


def hold(lake: Lake, source: Source, bad: pl.DataFrame, batch: str, *, as_of: datetime, about: dict[str, str]) -> None:
    """Put bad rows, with the list of their `reasons`, into quarantine; those that lie there stay as they are."""
    lake.merge(_table(source), _held(source, bad, batch, as_of), key=(_ID,), batch=batch, about=about)


def list_held(lake: Lake, sources: tuple[Source, ...]) -> list[Held]:
    """What lies in quarantine, a line a source and batch, the newest batch first."""
    return [line for source in sources for line in _batches(source, _stored(lake, source))]


def show_held(lake: Lake, sources: tuple[Source, ...], *, batch: str = "", limit: int = 20) -> list[HeldRow]:
    """The rows in quarantine, at most `limit` of a source, those known last first; of one batch, when it is named.

    A batch is named in full or by its digest, the last part of its name. Raises `NoDataError` when no such is held.
    """
    found = [
        HeldRow(source.name, _digest(row["batch"]), row[KNOWN_AT], tuple(row[REASONS]), row["row"])
        for source in sources
        for row in _of_batch(_stored(lake, source), batch)
        .sort(KNOWN_AT, _ID, descending=True)
        .head(limit)
        .iter_rows(named=True)
    ]
    if batch and not found:
        raise _no_batch(lake, sources, batch)
    return found


def replay(lake: Lake, sources: tuple[Source, ...], *, batch: str = "", as_of: datetime) -> list[Replayed]:
    """Validate the rows in quarantine with today's schemas; merge those that pass into the raw tables, keep the rest.

    The rest gets today's reasons. Twice, or after a crash at any point, it does what it does once. Raises `NoDataError`
    when a batch is named, in full or by its digest, that is not held.
    """
    held = [(source, _of_batch(_stored(lake, source), batch)) for source in sources]
    if batch and all(rows.is_empty() for _, rows in held):
        raise _no_batch(lake, sources, batch)
    return [_replay(lake, source, rows, as_of) for source, rows in held if rows.height]


def _replay(lake: Lake, source: Source, held: pl.DataFrame, as_of: datetime) -> Replayed:
    passed, kept, version, written = 0, [held.clear()], None, 0
    for _, alike in held.group_by("schema", maintain_order=True):
        good, rest = _judged(lake, source, alike)
        kept.append(rest)
        if good.height:
            commit = _merge(lake, source, good, as_of)
            passed, written, version = passed + good.height, written + commit.rows, commit.version
    rest = pl.concat(kept)
    if passed or not rest.sort(_ID).equals(held.sort(_ID)):
        batches = ", ".join(f"'{name}'" for name in held["batch"].unique().sort())
        lake.replace(_table(source), rest, where=f"batch IN ({batches})")
    return Replayed(source.name, held.height, passed, written, rest.height, _commonest(rest), version)


def _judged(lake: Lake, source: Source, alike: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of held rows with one schema: those that pass now, as they came; the others, as held, with today's reasons."""
    rows = read_rows(alike["row"].to_list(), read_schema(alike.item(0, "schema")))
    table = f"raw/{source.name}"
    stored = lake.scan(table).collect_schema() if lake.exists(table) else pl.Schema()
    try:
        faults = row_faults(source, rows, stored)
    except SourceError as error:
        return rows.clear(), alike.with_columns(pl.Series(REASONS, [[error.what]] * alike.height))
    bad = alike.with_row_index("__row").join(faults.rename({"row": "__row"}), on="__row", suffix="_now", how="inner")
    rest = bad.with_columns(pl.col(f"{REASONS}_now").alias(REASONS)).select(alike.columns)
    return rows.filter(~pl.int_range(rows.height).is_in(faults["row"].implode())), rest


def _merge(lake: Lake, source: Source, good: pl.DataFrame, as_of: datetime) -> Commit:
    name = f"{source.name}:replay:{content_digest(good, [*source.key, KNOWN_AT])}"
    about = {"source": source.name, "replayed": as_of.isoformat()}
    return lake.merge(f"raw/{source.name}", good, key=source.key, batch=name, about=about)


def _held(source: Source, bad: pl.DataFrame, batch: str, as_of: datetime) -> pl.DataFrame:
    """Bad rows as the quarantine keeps them; one without a `known_at` lies there by its `event_time`, if it has one."""
    rows = bad.drop(REASONS)
    texts = write_rows(rows)
    known = pl.coalesce(KNOWN_AT, EVENT_TIME, pl.lit(_EPOCH, _INSTANT)).alias(KNOWN_AT)
    return bad.select(EVENT_TIME, known, REASONS).with_columns(
        pl.Series(_ID, [sha256(f"{source.name}\n{text}".encode()).hexdigest()[:32] for text in texts]),
        pl.lit(as_of).cast(_INSTANT).alias("quarantined_at"),
        pl.lit(batch).alias("batch"),
        pl.Series("row", texts, pl.String),
        pl.lit(write_schema(rows.schema)).alias("schema"),
    )


def _stored(lake: Lake, source: Source) -> pl.DataFrame:
    """The rows of a source that are held, none when nothing ever was."""
    table = _table(source)
    return lake.scan(table).collect() if lake.exists(table) else pl.DataFrame(schema=_COLUMNS)


def _of_batch(held: pl.DataFrame, batch: str) -> pl.DataFrame:
    return held.filter((pl.col("batch") == batch) | pl.col("batch").str.ends_with(f":{batch}")) if batch else held


def _batches(source: Source, held: pl.DataFrame) -> Iterator[Held]:
    ordered = held.sort("quarantined_at", "batch", descending=True)
    for (batch, at), rows in ordered.group_by("batch", "quarantined_at", maintain_order=True):
        yield Held(source.name, _digest(str(batch)), rows.height, _commonest(rows), at)


def _commonest(held: pl.DataFrame) -> tuple[str, ...]:
    """The three commonest reasons, with how many rows have each."""
    counts = held[REASONS].explode().drop_nulls().value_counts()
    counts = counts.sort("count", REASONS, descending=[True, False])
    return tuple(f"{reason} ({count:,})" for reason, count in counts.head(3).iter_rows())


def _digest(batch: str) -> str:
    return batch.rsplit(":", 1)[-1]


def _no_batch(lake: Lake, sources: tuple[Source, ...], batch: str) -> NoDataError:
    held = [line.batch for line in list_held(lake, sources)]
    return NoDataError(
        f"No batch {batch!r} is in quarantine.",
        looked=f"There are {', '.join(held[:5]) or 'none'}{', …' if len(held) > 5 else ''}.",
        todo="Type: millrace quarantine list USE_CASE",
    )


def _table(source: Source) -> str:
    return f"quarantine/{source.name}"
