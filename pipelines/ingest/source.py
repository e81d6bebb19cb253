"""One source's new rows into the lake: read, validate, quarantine, merge, and remember how far.

The batch is named by the source, its range and the digest of its content, and that name is committed with the rows, so
a batch that comes twice (a retry after a crash, two schedulers at once) changes nothing and says so. The quarantined
rows are committed first: a crash between the two commits is healed by the retry, which finds them there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from millrace.digest import content_digest
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.source import EVENT_TIME, KNOWN_AT, Source
from pipelines.ingest.read import read_rows
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
    source: Source, lake: Lake, settings: Settings, *, since: datetime | None, as_of: datetime
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
    frame = read_rows(source, settings, since, as_of)
    if frame.is_empty():
        version = lake.version(table) if lake.exists(table) else None
        return IngestResult(source.name, since, as_of, 0, 0, 0, "", version, False)
    checked = check_batch(source, frame)
    batch = (
        f"{source.name}:{since:%Y%m%dT%H%M%S}-{as_of:%Y%m%dT%H%M%S}:{content_digest(frame, [*source.key, KNOWN_AT])}"
    )
    about = {"source": source.name, "since": since.isoformat(), "until": as_of.isoformat()}
    if checked.bad.height:
        lake.append(f"quarantine/{source.name}", _quarantined(checked.bad, batch, as_of), batch=batch, about=about)
    contiguous = cursor is None or since <= cursor < as_of
    reached = as_of if contiguous else None
    commit = lake.merge(table, checked.good, key=source.key, batch=batch, cursor=reached, about=about)
    return IngestResult(
        source.name, since, as_of, frame.height, commit.rows, checked.bad.height, batch, commit.version, commit.repeated
    )


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
