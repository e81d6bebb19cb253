"""A batch scoring job, resolved and cut: everything that a process needs to score any of its chunks, as plain values.

A plan is JSON in the ledger and travels to other processes; it holds no secret and no open thing. It knows nothing of
how chunks are run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from millrace.errors import ScoreJobError
from serving.batch.spec import Join


@dataclass(frozen=True, slots=True)
class InputFile:
    """A Parquet file of the input: where it lies and how many rows it has.

    Of a user's own file also its size and the time of its last change, by which a chunk notices another in its place;
    0 for those that nobody changes (the lake's, the job's own copies). A path of a lake table is below that table.
    """

    path: str
    rows: int
    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """`rows` rows of a file from `first` on; `file` is its place in the plan's files."""

    file: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is scored, written and committed at once; `first` is its first row's place in the whole input."""

    index: int
    first: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """How many rows of the input it has."""
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class JobPlan:
    """How a job is done.

    `use_case` is a folder; `folder` the job's own, with its copies. `kind` says how the files are read: as those of the
    lake's `table` at `table_version`, as Parquet whose types count (`typed`), or as copies of CSV or SQL rows, whose
    texts are read cell by cell (`texts`). `lead_seconds` are taken off `event_time` when the input is the population's
    own table, and rows known after `known_by` are passed over then. `keep` are the input's columns that the output has
    beside the scores, with what they hold: `text`, `integer` or `instant`.
    """

    job: str
    use_case: str
    folder: str
    version: int
    bundle: str
    kind: Literal["lake", "typed", "texts"]
    files: tuple[InputFile, ...]
    chunks: tuple[Chunk, ...]
    join: Join
    output: str
    as_of: datetime
    scored_at: datetime
    log: bool
    keep: dict[str, Literal["text", "integer", "instant"]] = field(default_factory=dict)
    table: str = ""
    table_version: int = -1
    start: datetime | None = None
    until: datetime | None = None
    lead_seconds: float = 0.0
    known_by: datetime | None = None

    @property
    def rows(self) -> int:
        """How many rows the input has."""
        return sum(chunk.rows for chunk in self.chunks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> JobPlan:
        """The plan again; `ScoreJobError` when it is not one of this version of Millrace."""
        try:
            return msgspec.convert(stored, cls)
        except msgspec.ValidationError as error:
            raise ScoreJobError(
                f"The job's plan cannot be read: {error}.", todo="Start it anew: millrace score … --again."
            ) from None


@dataclass(frozen=True, slots=True)
class Choice:
    """How the model is run: `workers` chunks at once, each with `threads` of the engine's, `batch_rows` rows a call.

    `machine` is what it was measured on. The same choice gives the same bits again.
    """

    workers: int = 1
    threads: int = 1
    batch_rows: int = 65_536
    rows_per_second: float = 0.0
    machine: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Choice:
        """The choice again."""
        return msgspec.convert(stored, cls)


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """What came of a chunk: `rows` within the job's stretch, `scored` of them written, `rejected` in the reject table.

    `digest` is of the written keys and scores, `reasons` why rows were rejected and how many for each.
    """

    index: int
    rows: int
    scored: int
    rejected: int
    digest: str
    seconds: float
    reasons: dict[str, int] = field(default_factory=dict)
    said: str = ""


def cut(files: Sequence[InputFile], chunk_rows: int) -> tuple[Chunk, ...]:
    """The files' rows in order, in chunks of `chunk_rows`; an input without rows is one chunk without any."""
    found: list[Chunk] = []
    pieces: list[Piece] = []
    first = room = 0
    for piece in _pieces(files, chunk_rows):
        if pieces and piece.rows > room:
            found.append(Chunk(len(found), first, tuple(pieces)))
            first, pieces = first + found[-1].rows, []
        room = (room if pieces else chunk_rows) - piece.rows
        pieces.append(piece)
    if pieces or not found:
        found.append(Chunk(len(found), first, tuple(pieces)))
    return tuple(found)


def _pieces(files: Sequence[InputFile], chunk_rows: int) -> Iterator[Piece]:
    for place, file in enumerate(files):
        for first in range(0, file.rows, chunk_rows):
            yield Piece(place, first, min(chunk_rows, file.rows - first))
