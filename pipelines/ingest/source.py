"""One source's new rows into the lake: read, validate, compare, quarantine, merge, and remember how far.

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
from millrace.source import KNOWN_AT, Source
from pipelines.ingest.anomalies import check_plausible
from pipelines.ingest.quarantine import hold
from pipelines.ingest.read import read_rows
from pipelines.ingest.validate import check_batch

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
    source: Source, lake: Lake, settings: Settings, *, since: datetime | None, as_of: datetime, accept: bool = False
) -> IngestResult:
    """Read the rows of `source` that became known in (since, as_of] and merge them into `raw/<source>`.

    `since=None` continues where the last ingest ended, less the source's overlap; the first one reads from 1970. Of a
    row that the lake has, the later `known_at` wins. Raises `SourceError` when the source cannot be read, the batch
    breaks its schema, or it is not like the batches before it; then nothing was written and the next ingest reads the
    range again. `accept` takes a batch that differs from those before it, and one that lacks a column of the table.
    """
    table = f"raw/{source.name}"
    cursor = lake.cursor(table)
    if since is None:
        since = BEGINNING if cursor is None else cursor - source.overlap
    frame = read_rows(source, settings, since, as_of)
    if frame.is_empty():
        return _ingest_nothing(source, lake, frame, since, as_of, accept)
    stored = lake.scan(table).collect_schema() if lake.exists(table) else pl.Schema()
    checked = check_batch(source, frame, stored, accept=accept)
    if not accept:
        check_plausible(source, checked.good, lake, since=since, until=as_of)
    batch = (
        f"{source.name}:{since:%Y%m%dT%H%M%S}-{as_of:%Y%m%dT%H%M%S}:{content_digest(frame, [*source.key, KNOWN_AT])}"
    )
    about = {"source": source.name, "since": since.isoformat(), "until": as_of.isoformat()}
    if checked.bad.height:
        hold(lake, source, checked.bad, batch, as_of=as_of, about=about)
    contiguous = cursor is None or since <= cursor < as_of
    reached = as_of if contiguous else None
    commit = lake.merge(table, checked.good, key=source.key, batch=batch, cursor=reached, about=about)
    return IngestResult(
        source.name, since, as_of, frame.height, commit.rows, checked.bad.height, batch, commit.version, commit.repeated
    )


def _ingest_nothing(
    source: Source, lake: Lake, frame: pl.DataFrame, since: datetime, until: datetime, accept: bool
) -> IngestResult:
    """No row became known: as ever, or a fault of the source. An accepted silence moves the cursor on."""
    table = f"raw/{source.name}"
    version = lake.version(table) if lake.exists(table) else None
    if not accept:
        check_plausible(source, frame, lake, since=since, until=until)
    elif version is not None and since <= (lake.cursor(table) or since) < until:
        about = {"source": source.name, "since": since.isoformat(), "until": until.isoformat()}
        version = lake.append(table, lake.scan(table).head(0).collect(), cursor=until, about=about).version
    return IngestResult(source.name, since, until, 0, 0, 0, "", version, False)
