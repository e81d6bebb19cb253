"""Rows of CSV and Parquet files, on this machine or in an object store, of a range of time.

Which files are opened follows from the dates in their names or the times they were written (`shelf`); which of their
rows belong to the range, from `known_at`. Local files are scanned in place, those of an object store fetched whole, one
at a time. A file that looks cut is refused. Knows nothing of the lake.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from millrace.errors import MillraceError, SourceError, first_line
from millrace.settings import Settings
from millrace.source import KNOWN_AT, Files, Source
from pipelines.ingest.columns import INSTANT, Types, declared_types, fitted, no_rows, stack, with_times
from pipelines.ingest.places import shown
from pipelines.ingest.shelf import File, Shelf, Span, open_shelf


def read_files(source: Source, files: Files, settings: Settings, since: datetime, until: datetime) -> pl.DataFrame:
    """The files' rows known in (since, until], with their two times; an empty frame when no file can have any.

    Raises `SourceError`, naming the file, when there is none at all or one cannot be read, looks cut or differs from
    the others; `SettingsError` when the place is unknown.
    """
    shelf = open_shelf(source.name, files, settings)
    reader, parts = _Reader(source.name, files, declared_types(source), since, until), []
    for file in shelf.between(since, until):
        with _naming(source, file):
            parts.append((shown(file.path), reader.frame(file, _raw(shelf, file))))
    return stack(source.name, parts) if parts else no_rows()


@contextmanager
def _naming(source: Source, file: File) -> Iterator[None]:
    """What goes wrong with a file is told with its name."""
    where = f"It was reading the file {shown(file.path)}."
    try:
        yield
    except MillraceError as error:
        raise SourceError(error.what, looked=f"{error.looked} {where}".strip(), todo=error.todo) from error
    except Exception as error:  # polars, pyarrow, zip and gzip, the store's driver, the user's `prepare`
        raise SourceError(
            f"The source {source.name!r} cannot read a file: {shown(first_line(error))}.",
            looked=where,
            todo="Write the file again, or mend the source's `types` or `prepare`; nothing was ingested.",
        ) from error


def _raw(shelf: Shelf, file: File) -> Path | bytes:
    """A file on this machine, or the content of one that is not."""
    raw = Path(file.path) if shelf.local else shelf.fetch(file)
    if raw.stat().st_size if isinstance(raw, Path) else raw:
        return raw
    raise SourceError("The file is empty (0 bytes).", todo="Write it again, or remove it.")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads a source's files, one at a time, for a range of time."""

    source: str
    files: Files
    types: Types
    since: datetime
    until: datetime

    def frame(self, file: File, raw: Path | bytes) -> pl.DataFrame:
        """The file's rows of the range; a CSV's in the schema's types, or in its own where a value is not of those."""
        if file.path.endswith(".parquet"):
            return self._of_range(file, _scan_parquet(raw, self.files))
        columns = _check_csv(raw, self.files, plain=file.path.endswith(".csv"))
        if self.files.types is None:
            with suppress(pl.exceptions.ComputeError):  # ten times as fast as to infer the types from every row
                return self._of_range(file, _scan_csv(raw, self.files, self._parsed(columns), len(columns)))
        texts = {name: pl.String for name in columns if self.types.get(name) == pl.String}  # 007 is no 7
        return self._of_range(file, _scan_csv(raw, self.files, self.files.types or texts, len(columns)))

    def _parsed(self, columns: Collection[str]) -> Types:
        """The types in which a CSV's columns are parsed at once: numbers and truths as declared, times as text."""
        types: dict[str, Any] = dict.fromkeys((self.files.event_time, self.files.known_at or KNOWN_AT), pl.String)
        for name, kind in self.types.items():
            if kind.is_temporal() or kind == pl.String:
                types[name] = pl.String
            elif kind.is_integer() or kind.is_float() or kind == pl.Boolean:
                types[name] = kind
        return {name: kind for name, kind in types.items() if name in columns}

    def _of_range(self, file: File, rows: pl.LazyFrame) -> pl.DataFrame:
        """The rows known in (since, until] and those without a time, as the schema has them."""
        files, known = self.files, pl.col(KNOWN_AT)
        if file.written is not None:
            rows = rows.with_columns(pl.lit(file.written).cast(INSTANT).alias(KNOWN_AT))
        rows = files.prepare(rows) if files.prepare else rows
        rows = with_times(self.source, rows, files.event_time, files.known_at or KNOWN_AT)
        within = known.is_null() | ((known > self.since) & (known <= self.until))
        if file.known is None:
            return fitted(rows.filter(within).collect(), self.types)
        frame = rows.collect()
        _check_name(file.known, frame)
        return fitted(frame.filter(within), self.types)


def _check_name(span: Span, frame: pl.DataFrame) -> None:
    """Raise `SourceError` for a row that became known at a time that the file's name denies: no range would find it."""
    strays = frame.filter(~pl.col(KNOWN_AT).is_between(*span))
    if not strays.is_empty():
        raise SourceError(
            f"{strays.height:,} rows of the file became known at another time than its name says.",
            looked=f"One did at {strays[KNOWN_AT][0]:%Y-%m-%d %H:%M:%S} UTC.",
            todo="Give their delay, Files(…, late=timedelta(…)), or write * instead of the date, to read every file.",
        )


def _scan_parquet(raw: Path | bytes, files: Files) -> pl.LazyFrame:
    rows = pl.scan_parquet(raw if isinstance(raw, Path) else BytesIO(raw), glob=False, hive_partitioning=False)
    if files.complete and not rows.select(pl.len()).collect().item():
        raise _without_rows()
    return rows


def _check_csv(raw: Path | bytes, files: Files, *, plain: bool) -> list[str]:
    """The columns of a CSV; `SourceError` when it lacks one that `types` names, or looks cut."""
    head = pl.read_csv(raw, n_rows=1, infer_schema_length=0, glob=False)
    if files.complete and head.is_empty():
        raise _without_rows()
    if files.complete and plain and not _ends_a_line(raw):
        raise SourceError(
            "The file's last line does not end: it was cut, or is still being written.",
            todo="Write it again; if it is whole, end its last line, or say Files(…, complete=False).",
        )
    if missing := sorted(set(files.types or ()) - set(head.columns)):
        raise SourceError(
            f"The file has no column {', '.join(missing)}.",
            looked=f"It has the columns {', '.join(head.columns)}.",
            todo="Mend the file, or `types` of the source's Files.",
        )
    return head.columns


def _scan_csv(raw: Path | bytes, files: Files, types: Types, columns: int) -> pl.LazyFrame:
    """The columns that `types` of the source names, or all: in these types, the others inferred from every row."""
    rows = pl.scan_csv(
        raw,
        schema_overrides=types,
        null_values=list(files.null_values),
        infer_schema_length=0 if files.types or len(types) == columns else None,
        glob=False,
    )
    return rows.select(list(types)) if files.types else rows


def _ends_a_line(raw: Path | bytes) -> bool:
    if isinstance(raw, bytes):
        return raw.endswith((b"\n", b"\r"))
    with raw.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) in (b"\n", b"\r")


def _without_rows() -> SourceError:
    return SourceError(
        "The file has no rows.", todo="Write it again, or remove it; if it may be so, say Files(…, complete=False)."
    )
