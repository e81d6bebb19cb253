"""The files of a source, and which of them can hold rows of a range of time. Opens none; fetches those of a store.

A file is chosen by the date pattern in its name (`%Y-%m-%d`, UTC), else by when it was written, else always.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from glob import escape, has_magic
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from millrace.errors import SourceError, first_line
from millrace.settings import Settings
from millrace.source import Files
from pipelines.ingest.places import place_url, shown

READABLE = (".csv", ".csv.gz", ".csv.zst", ".parquet")
"""How the names of the files end that are read; others, and in folders those after a . or _, are passed over."""
_DIGITS = {"%Y": 4, "%m": 2, "%d": 2, "%H": 2}
_WILD = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_TOKEN = re.compile(r"%[YmdH]|\*\*|\*|\?|\[[^\]]+\]|.")


class Span(NamedTuple):
    """Two instants, both inclusive."""

    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class File:
    """One file: `known` is when its rows became known if its name says so, `written` that time if its rows do not."""

    path: str
    known: Span | None = None
    written: datetime | None = None


@dataclass(frozen=True, slots=True)
class Shelf:
    """The files of one source on one file system; `folder` is taken as it is, `path` may be a pattern."""

    source: str
    files: Files
    system: Any
    folder: str
    path: str

    @property
    def local(self) -> bool:
        """Whether the files lie on this machine."""
        return isinstance(self.system, LocalFileSystem)

    def fetch(self, file: File) -> bytes:
        """A file's content, all of it."""
        return bytes(self.system.cat_file(file.path))

    def between(self, since: datetime, until: datetime) -> list[File]:
        """The files that can hold rows known in (since, until], by path.

        Raises `SourceError` when there is no file at all, in this range or any other.
        """
        found = [self._file(path) for path in sorted(self._paths())]
        if not found:
            raise self._nothing("has no CSV or Parquet file")
        return [file for file in found if _overlaps(file, since, until)]

    def _paths(self) -> list[str]:
        literal = "/".join(part for part in (self.folder, self.path) if part)
        try:
            if _has_date(self.path) or has_magic(self.path):
                folder = f"{escape(self.folder)}/" if self.folder else ""
                named = self.system.glob(folder + _date_as_wildcard(self.path), detail=True)
            else:
                named = {literal: self.system.info(literal)}
            paths = [below for path, info in named.items() for below in self._below(path, info["type"])]
        except FileNotFoundError as error:
            raise self._nothing("does not find its files") from error
        except Exception as error:  # each store's driver has errors of its own
            raise self._nothing(f"cannot list its files ({shown(first_line(error))})") from error
        pattern = _expression(self.path)
        return [path for path in paths if not _has_date(self.path) or re.fullmatch(pattern, path)]

    def _below(self, path: str, kind: str) -> list[str]:
        if kind == "directory":
            return [below for below in self.system.find(path) if _readable(below.removeprefix(path).lstrip("/"))]
        return [path] if path.endswith(READABLE) else []

    def _file(self, path: str) -> File:
        if self.files.known_at is None:
            written = self.system.modified(path)
            return File(path, None, written.replace(tzinfo=UTC) if written.tzinfo is None else written.astimezone(UTC))
        found = re.fullmatch(_expression(self.path), path) if _has_date(self.path) else None
        if found is None:
            return File(path)
        try:
            span = _period(found.groupdict())
        except ValueError as error:
            raise SourceError(
                f"The name of a file of source {self.source!r} holds no date: {first_line(error)}.",
                looked=f"The file is {shown(path)}, its pattern {shown(self.path)}.",
                todo="Rename the file, or narrow the pattern.",
            ) from error
        return File(path, Span(span.first, span.last + self.files.late))

    def _nothing(self, what: str) -> SourceError:
        return SourceError(
            f"The source {self.source!r} {what}.",
            looked=f"Looked at {shown('/'.join(part for part in (self.folder, self.path) if part))}"
            f" for names that end in {', '.join(READABLE)}.",
            todo="Correct `path` of the source's Files or its place in MILLRACE_PLACES.",
        )


def open_shelf(source: str, files: Files, settings: Settings) -> Shelf:
    """The shelf of these files; `SettingsError` for an unknown place, `SourceError` when its store cannot be opened."""
    url = place_url(source, files.place, settings) if files.place else str(files.path)
    try:
        system, opened = url_to_fs(url, **settings.place_options.get(files.place, {}))
    except Exception as error:  # a missing driver, an unknown protocol, options it does not know, no connection
        raise SourceError(
            f"The source {source!r} cannot open its store: {shown(first_line(error))}.",
            looked=f"Its files lie at {shown(url)}.",
            todo="Install what the message names (pip install …), or correct MILLRACE_PLACES.",
        ) from error
    return Shelf(source, files, system, *((opened.rstrip("/"), str(files.path)) if files.place else ("", opened)))


def _readable(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.endswith(READABLE) and not any(part.startswith((".", "_")) for part in parts)


def _has_date(path: str) -> bool:
    return any(code in path for code in _DIGITS)


def _date_as_wildcard(path: str) -> str:
    for code, digits in _DIGITS.items():
        path = path.replace(code, "?" * digits)
    return path


def _expression(path: str) -> str:
    """The regular expression of the paths that a pattern means, with a group for each part of its date."""
    seen: set[str] = set()

    def piece(token: str) -> str:
        if token not in _DIGITS:
            return _WILD.get(token) or (token if len(token) > 1 else re.escape(token))
        again, name = token in seen, token[1]
        seen.add(token)
        return f"(?P={name})" if again else rf"(?P<{name}>\d{{{_DIGITS[token]}}})"

    return f"(?:.*/)?{''.join(piece(token) for token in _TOKEN.findall(path))}(?:/.*)?"


def _period(date: dict[str, str]) -> Span:
    """The hour, day, month or year that the parts of a date name, its last instant being the next one's first."""
    year, month, day, hour = (int(date.get(part, first)) for part, first in (("Y", 0), ("m", 1), ("d", 1), ("H", 0)))
    first = datetime(year, month, day, hour, tzinfo=UTC)
    if "H" in date:
        return Span(first, first + timedelta(hours=1))
    if "d" in date:
        return Span(first, first + timedelta(days=1))
    if "m" in date:
        return Span(first, (first + timedelta(days=31)).replace(day=1))
    return Span(first, first.replace(year=year + 1))


def _overlaps(file: File, since: datetime, until: datetime) -> bool:
    if file.written is not None:
        return since < file.written <= until
    return file.known is None or (file.known.first <= until and file.known.last > since)
