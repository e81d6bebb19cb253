"""What a commit leaves in a lake table's log beside its rows, and how it is read back.

Marks that are numbers (batches, cursors) are Delta application transactions, which Delta itself keeps and compares.
What people and checks read later (which batch, its range, how many rows with which digest) is metadata of the commit.
This module knows nothing of files or tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from millrace.digest import content_digest

if TYPE_CHECKING:
    from deltalake import CommitProperties

CURSOR = "millrace.cursor"
"""Application transaction whose version is the cursor, in microseconds since 1970 (UTC)."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PREFIX = "millrace."
_WROTE, _BATCH, _DID = "wrote", "batch", "did"

Operation = Literal["append", "merge", "replace", "compact"]


@dataclass(frozen=True, slots=True)
class Wrote:
    """The rows that a commit wrote: how many, and their digest over `columns`, sorted by `by`.

    `whole`: they are all that the version has.
    """

    rows: int
    digest: str
    columns: tuple[str, ...]
    by: tuple[str, ...]
    whole: bool

    @classmethod
    def of(cls, frame: pl.DataFrame, by: Sequence[str] = (), *, whole: bool) -> Wrote:
        """Describe these rows; `by` tells them apart (none: all columns do)."""
        columns = tuple(frame.columns)
        return cls(frame.height, rows_digest(frame, by), columns, tuple(by), whole)

    def describes(self, frame: pl.DataFrame) -> bool:
        """Whether these are the rows: as many, with the same values and types."""
        if frame.height != self.rows or not set(self.columns) <= set(frame.columns):
            return False
        return rows_digest(frame.select(self.columns), self.by) == self.digest


@dataclass(frozen=True, slots=True)
class Version:
    """One commit to a table: the version it made, when (the writer's clock, UTC), and what it says of itself.

    `did` is append, merge, replace or compact, or what Delta calls it when another tool did it. `wrote` is None when
    no digest was recorded. `about` is what the writer was told to leave (an ingest: `source`, `since`, `until`).
    """

    number: int
    at: datetime
    did: str
    batch: str | None
    wrote: Wrote | None
    about: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Marks:
    """What a commit leaves in the log beside its rows."""

    did: Operation
    batch: str | None = None
    cursor: datetime | None = None
    more: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def properties(self, wrote: Wrote | None) -> CommitProperties:
        """As deltalake takes them."""
        from deltalake import CommitProperties, Transaction

        transactions = [Transaction(self.batch, 1)] if self.batch else []
        if self.cursor is not None:
            transactions.append(Transaction(CURSOR, (self.cursor - EPOCH) // timedelta(microseconds=1)))
        transactions += [Transaction(name, value) for name, value in self.more.items()]
        about = {**self.about, _DID: self.did}
        if self.batch:
            about[_BATCH] = self.batch
        if wrote is not None:
            about[_WROTE] = json.dumps({name: getattr(wrote, name) for name in Wrote.__slots__})
        # No retries inside deltalake: its own lets two first commits of one batch both in (46 of 60 trials, 1.6.6), and
        # a commit that looked at an older version must look again.
        metadata = {_PREFIX + name: text for name, text in about.items()}
        return CommitProperties(metadata, app_transactions=transactions, max_commit_retries=0)


def read_version(entry: Mapping[str, Any]) -> Version:
    """A commit as deltalake's history tells it."""
    ours = {name.removeprefix(_PREFIX): text for name, text in entry.items() if name.startswith(_PREFIX)}
    return Version(
        number=int(entry["version"]),
        at=EPOCH + timedelta(milliseconds=entry.get("timestamp", 0)),
        did=ours.pop(_DID, None) or str(entry.get("operation", "unknown")).lower(),
        batch=ours.pop(_BATCH, None),
        wrote=_read_wrote(ours.pop(_WROTE, None)),
        about=ours,
    )


def _read_wrote(text: str | None) -> Wrote | None:
    if text is None:
        return None
    told = json.loads(text)
    return Wrote(told["rows"], told["digest"], tuple(told["columns"]), tuple(told["by"]), told["whole"])


def rows_digest(frame: pl.DataFrame, by: Sequence[str]) -> str:
    """The digest of a frame's rows whatever their order and that of the columns; nested values count as their JSON."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    flat = frame.with_columns(pl.struct(name).struct.json_encode().alias(name) for name in nested)
    return content_digest(flat, by or sorted(flat.columns))
