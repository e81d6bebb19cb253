"""One source's rows of a range of time, wherever they come from. This module writes nothing."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from millrace.errors import MillraceError, SourceError, first_line
from millrace.settings import Settings
from millrace.source import KNOWN_AT, Files, Query, Source
from pipelines.ingest.files import read_files
from pipelines.ingest.sql import read_query


def read_rows(source: Source, settings: Settings, since: datetime, until: datetime) -> pl.DataFrame:
    """The source's rows known in (since, until]; a source that returns more is cut to that range.

    Raises `SourceError` when it cannot be read or does not return a frame.
    """
    try:
        frame = _read(source, settings, since, until)
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


def _read(source: Source, settings: Settings, since: datetime, until: datetime) -> pl.DataFrame:
    read = source.read
    if isinstance(read, Files):
        return read_files(source, read, settings, since, until)
    if isinstance(read, Query):
        return read_query(source, read, settings, since, until)
    return read(since, until)
