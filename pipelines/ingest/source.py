"""One source's new rows into the lake: read, validate, quarantine, merge, and remember how far.

The batch is named by the source and the digest of its content, and that name is committed with the rows, so a batch
that comes twice (a retry after a crash, two schedulers at once) changes nothing and says so. The quarantined rows are
committed first: a crash between the two commits is healed by the retry, which finds them there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from millrace.errors import MillraceError, SourceError, first_line
from millrace.lake import Lake
from millrace.usecase import EVENT_TIME, KNOWN_AT, Source, UseCase
from pipelines.ingest.digest import content_digest
from pipelines.ingest.validate import REASONS, check_batch

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Since when the first ingest of a source reads."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What one ingest did.

    `rows` came from the source, `written` of them were new or newer than what the lake had, `quarantined` broke the
    schema. `version` is the raw table's version afterwards (None before its first row). `repeated`: this very batch was
    in the lake already.
    """

    source: str
    since: datetime
    until: datetime
    rows: int
    written: int
    quarantined: int
    batch: str
    version: int | None
    repeated: bool


def ingest_source(
    use_case: UseCase, source: Source, lake: Lake, *, since: datetime | None, as_of: datetime
) -> IngestResult:
    """Read the rows of `source` that became known in (since, as_of] and merge them into `raw/<source>`.

    `since=None` continues where the last ingest ended, less the source's overlap; the first one reads from 1970. Of a
    row that the lake has, the later `known_at` wins. Raises `SourceError` when the source cannot be read or the batch
    breaks its schema; then nothing was written.
    """
    table = f"raw/{source.name}"
    cursor = lake.cursor(table)
    if since is None:
        since = BEGINNING if cursor is None else cursor - source.overlap
    frame = _read(source, since, as_of)
    if frame.is_empty():
        version = lake.version(table) if lake.exists(table) else None
        return IngestResult(source.name, since, as_of, 0, 0, 0, "", version, False)
    checked = check_batch(source, frame)
    batch = f"{source.name}:{content_digest(frame, source.key)}"
    if checked.bad.height:
        lake.append(f"quarantine/{source.name}", _quarantined(checked.bad, batch, as_of), batch=batch)
    contiguous = cursor is None or since <= cursor < as_of
    commit = lake.merge(table, checked.good, key=source.key, batch=batch, cursor=as_of if contiguous else None)
    return IngestResult(
        source.name, since, as_of, frame.height, commit.rows, checked.bad.height, batch, commit.version, commit.repeated
    )


def _read(source: Source, since: datetime, until: datetime) -> pl.DataFrame:
    """The source's rows known in (since, until]; a source that returns more is cut to that range."""
    try:
        frame = source.read(since, until)
    except MillraceError:
        raise
    except Exception as error:
        raise SourceError(
            f"The source {source.name!r} cannot be read: {first_line(error)}.",
            looked=f"It was asked for the rows known after {since:%Y-%m-%d %H:%M} up to {until:%Y-%m-%d %H:%M} (UTC).",
            todo="Run the read function alone to see the whole error; nothing was written.",
        ) from error
    if not isinstance(frame, pl.DataFrame):
        raise SourceError(
            f"The source {source.name!r} returned a {type(frame).__name__}, not a polars DataFrame.",
            todo="Return a polars.DataFrame from its read function.",
        )
    known = frame.schema.get(KNOWN_AT)
    if not isinstance(known, pl.Datetime) or known.time_zone != "UTC":
        return frame  # the validation says what is wrong with it
    return frame.filter(pl.col(KNOWN_AT).is_null() | ((pl.col(KNOWN_AT) > since) & (pl.col(KNOWN_AT) <= until)))


def _quarantined(bad: pl.DataFrame, batch: str, as_of: datetime) -> pl.DataFrame:
    """Bad rows as the quarantine keeps them: the row itself as JSON, since its columns may be of any type."""
    columns = [name for name in bad.columns if name != REASONS]
    return bad.select(
        EVENT_TIME,
        KNOWN_AT,
        pl.lit(as_of).cast(pl.Datetime("us", "UTC")).alias("quarantined_at"),
        pl.lit(batch).alias("batch"),
        REASONS,
        pl.struct(columns).struct.json_encode().alias("row"),
    )
