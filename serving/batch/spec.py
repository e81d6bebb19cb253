"""What a batch scoring job is asked for: the rows, where their scores go, and how features are joined to them.

Inputs and outputs are texts, as they are typed and stored: `lake:TABLE@VERSION`, `sql:PLACE:TABLE`, or a path. A
database is named by its place in the setting `MILLRACE_PLACES`, so that no password is ever part of a job.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from millrace.errors import ScoreJobError

Join = Literal["auto", "given", "point-in-time", "latest"]
"""How a row gets its features: it brings them; as of its own `event_time`; as of the job's moment; or `auto`, the first
of these that the input has the columns for."""
EngineName = Literal["local", "ray"]
JOINS: tuple[Join, ...] = ("auto", "given", "point-in-time", "latest")
ENGINES: tuple[EngineName, ...] = ("local", "ray")
CHUNK_ROWS = 131_072
"""Rows of a chunk: what is redone after a crash, and what lies in memory at once, a few times over."""

_LAKE = re.compile(r"lake:(?P<table>[A-Za-z0-9_/]+)(?:@(?P<version>\d+))?")
_SQL = re.compile(r"sql:(?P<place>[A-Za-z0-9_.-]+):(?P<sql>.+)", re.DOTALL)
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A table of the use case's lake, at a version or (None) the newest."""

    table: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class SqlRows:
    """A table or SELECT of the database that MILLRACE_PLACES calls `place`."""

    place: str
    sql: str


@dataclass(frozen=True, slots=True)
class FilePath:
    """A file, a folder or a pattern, absolute."""

    path: str


Place = LakeTable | SqlRows | FilePath


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A batch scoring job as asked for.

    `use_case` is a name or folder; `input` and `output` are texts as above. `as_of` None is the moment at which the job
    is first started. Rows with a moment of prediction outside [start, until) are passed over. `log`: whether scores
    also go to the prediction log. The engine changes nothing in the result and is no part of what the job is.
    """

    use_case: str
    input: str
    output: str
    join: Join = "auto"
    as_of: datetime | None = None
    start: datetime | None = None
    until: datetime | None = None
    log: bool = True
    chunk_rows: int = CHUNK_ROWS
    engine: EngineName = "local"

    def checked(self) -> JobSpec:
        """The same with absolute paths; `ScoreJobError` for a text, join, engine or size that is none."""
        _one_of("--join", self.join, JOINS)
        _one_of("--engine", self.engine, ENGINES)
        if self.chunk_rows < 1:
            raise ScoreJobError(f"A chunk of {self.chunk_rows} rows is no chunk.", todo="Give --chunk-rows 1 or more.")
        source, sink = read_place(self.input, "input"), read_place(self.output, "output")
        return replace(self, input=write_place(source), output=write_place(sink))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> JobSpec:
        """The specification again; `ScoreJobError` when it is none."""
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise ScoreJobError(f"This is no batch scoring job: {error}.") from None

    def identity(self, *, name: str, version: int, rows: dict[str, Any]) -> str:
        """The digest (sha256, hex) of what the job is: what is asked for of which use case, the model's version, and
        what identifies the input's `rows` (a table's version; files' sizes and times)."""
        asked = self.to_dict() | {"use_case": name}
        del asked["engine"]
        content = msgspec.json.encode([asked, version, rows], order="deterministic")
        return hashlib.sha256(content).hexdigest()


def read_place(text: str, what: Literal["input", "output"]) -> Place:
    """An input's or output's text; `ScoreJobError` says the forms there are."""
    if text.startswith("lake:"):
        found = _LAKE.fullmatch(text)
        if found and not (what == "output" and found["version"]):
            return LakeTable(found["table"].strip("/"), None if found["version"] is None else int(found["version"]))
        raise _no_place(text, what)
    if text.startswith("sql:"):
        found = _SQL.fullmatch(text)
        if found and (_TABLE.fullmatch(found["sql"]) if what == "output" else not found["sql"].startswith("//")):
            return SqlRows(found["place"], found["sql"].strip())
        raise _no_place("sql:…", what)  # what stands behind it may be a URL with a password
    if not text.strip() or "://" in text:
        raise _no_place(text.split("://")[0] + ("://…" if "://" in text else ""), what)
    return FilePath(str(Path(text).expanduser().absolute()))


def write_place(place: Place) -> str:
    """The text of an input or output."""
    if isinstance(place, LakeTable):
        return f"lake:{place.table}" + ("" if place.version is None else f"@{place.version}")
    return f"sql:{place.place}:{place.sql}" if isinstance(place, SqlRows) else place.path


def _no_place(text: str, what: str) -> ScoreJobError:
    forms = {
        "input": "lake:TABLE, lake:TABLE@VERSION, sql:PLACE:TABLE, sql:PLACE:SELECT …, or a file, folder or pattern of "
        ".parquet or .csv",
        "output": "lake:TABLE, sql:PLACE:TABLE, or a folder",
    }
    return ScoreJobError(
        f"{text!r} is no {what} of a batch scoring job.",
        todo=f"Write {forms[what]}; a PLACE is the name of a database in MILLRACE_PLACES.",
    )


def _one_of(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ScoreJobError(f"{option} {given!r} is none.", todo=f"Write one of: {', '.join(known)}.")
