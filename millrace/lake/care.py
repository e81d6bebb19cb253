"""The care of a lake table: is it still what was written, in few files, without those that nobody reads any more.

What a check rests on: every commit's seal (the SHA-256 of each file it added, `millrace.lake.files`) and every batch's
digest over its rows as they were before they were written (`millrace.lake.log`). Seals find any flipped byte; digests
prove that a batch came in as it was meant, and stand in for a seal that a killed writer did not leave. This module
knows nothing of use cases or models: which versions must survive, it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil

import polars as pl

from millrace.errors import LakeError, first_line
from millrace.lake import Commit, Lake
from millrace.lake.files import TableFiles
from millrace.lake.log import Version

RETENTION = timedelta(days=7)
"""How long files that the newest version no longer has are kept by default."""
_IN_FLIGHT = timedelta(hours=1)
"""A file that no version names and that is younger may belong to a commit that is being written."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of one table found.

    `files` are those of `version`, the newest; `sealed` of all files that are there were compared byte by byte, and
    `batches` had the rows they came with. `faults` say what is wrong, a sentence each. `unproven` files of the newest
    version have neither a seal nor a batch that could be checked. `beyond` batches cannot be checked any more, since
    files of their versions have been vacuumed; what is left of their rows is proven by the seals alone.
    """

    table: str
    version: int
    files: int
    sealed: int
    batches: int
    faults: tuple[str, ...]
    unproven: int
    beyond: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """The files that a vacuum deleted (or, on a dry run, would), their bytes, and the versions it was told to keep."""

    table: str
    files: int
    bytes: int
    kept: tuple[int, ...]


@dataclass
class _Check:
    """One check under way: of the `sealed` files the `damaged` have other bytes than their seal says; the `proven`
    have those, or hold rows whose digest is right."""

    lake: Lake
    table: str
    sealed: int = 0
    damaged: set[str] = field(default_factory=set)
    proven: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    batches: int = 0
    beyond: int = 0

    def compare_seals(self, step: Callable[[str], None]) -> None:
        """Read every file that is there and has a seal."""
        files = TableFiles(self.lake.uri(self.table), self.lake.options)
        seals = files.seals()
        for path in sorted(files.sizes().keys() & seals.keys()):
            same = files.sha256(path) == seals[path]
            (self.proven if same else self.damaged).add(path)
            self.sealed += 1
            step(path)

    def recompute(self, version: Version) -> bool:
        """Compare a version's digest with its rows; whether it was the whole table's and is right."""
        if version.wrote is None:
            return False
        try:
            read, added = self._files(version)
            if read & self.damaged:
                return False  # its file is a fault already
            rows = self._rows(version).collect()
        except LakeError:
            self.beyond += 1
            return False
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            self.faults.append(f"Version {version.number} cannot be read: {first_line(error)}.")
            return False
        if not version.wrote.describes(rows):
            batch = version.batch or version.did
            self.faults.append(f"Version {version.number} does not have the rows that it was given ({batch}).")
            return False
        self.batches += version.batch is not None
        self.proven |= added
        return version.wrote.whole

    def _files(self, version: Version) -> tuple[frozenset[str], frozenset[str]]:
        """The files that have to be read for a version's digest, and those of them that it proves."""
        files = self.lake.files(self.table, version=version.number)
        if version.wrote is not None and version.wrote.whole:
            return files, files
        before = self.lake.files(self.table, version=version.number - 1)
        return files ^ before, files - before

    def _rows(self, version: Version) -> pl.LazyFrame:
        if version.wrote is not None and version.wrote.whole:
            return self.lake.scan(self.table, version=version.number)
        return self.lake.changes(self.table, since=version.number - 1, until=version.number)


def verify(lake: Lake, table: str, *, step: Callable[[str], None] | None = None) -> Verified:
    """Compare a table's files with their seals and its batches' rows with their digests, the newest first.

    The walk back ends at a version whose digest is the whole table's (its first, a replacement, a compaction) and is
    right. `step` hears each file and version as it is done. Raises `LakeError` when there is no such table.
    """
    tell = step or _nobody
    check, history = _Check(lake, table), lake.history(table)
    newest = history[0].number
    current = lake.files(table, version=newest)
    check.compare_seals(tell)
    present = TableFiles(lake.uri(table), lake.options).sizes()
    check.faults += [f"The file {path} of the newest version is gone." for path in sorted(current - present.keys())]
    check.faults += [_damaged(path, path in current) for path in sorted(check.damaged)]
    for version in history:
        anchored = check.recompute(version)
        tell(f"version {version.number}")
        if anchored:
            break
    unproven = (current & present.keys()) - check.proven - check.damaged
    return Verified(
        table, newest, len(current), check.sealed, check.batches, tuple(check.faults), len(unproven), check.beyond
    )


def compact(lake: Lake, table: str) -> Commit:
    """Put a table into few files and read it back; the files of earlier versions stay until a vacuum.

    The rows are held in memory, more than once. Raises `LakeError` when what was read back differs.
    """
    done = lake.compact(table)
    anchor = next(version for version in lake.history(table) if version.number == done.version)
    rows = lake.scan(table, version=done.version)
    if not done.repeated and not (anchor.wrote and anchor.wrote.describes(rows.collect())):
        raise LakeError(
            f"The table {table!r} reads otherwise after its compaction than before.",
            looked=f"Version {done.version} differs from version {done.version - 1}, which is whole.",
            todo=f"Check the disk, then restore it: DeltaTable({lake.uri(table)!r}).restore({done.version - 1}).",
        )
    return done


def vacuum(
    lake: Lake, table: str, *, keep: Collection[int] = (), older_than: timedelta = RETENTION, dry_run: bool = False
) -> Vacuumed:
    """Delete the files that no version needs which is newest, in `keep`, or was replaced less than `older_than` ago.

    Their versions can no longer be read; history still names them. Files of writers that died go as well, once they
    are that old; with less than an hour they stay, since a commit may be under way.
    """
    from deltalake import CommitProperties

    opened = lake.delta(table)
    kept = tuple(sorted(version for version in keep if 0 <= version <= opened.version()))
    sizes = TableFiles(lake.uri(table), lake.options).sizes()
    gone = opened.vacuum(
        ceil(older_than / timedelta(hours=1)),
        dry_run=dry_run,
        enforce_retention_duration=False,
        full=older_than >= _IN_FLIGHT,
        keep_versions=list(kept) or None,
        commit_properties=CommitProperties({"millrace.did": "vacuum"}),
    )
    return Vacuumed(table, len(gone), sum(sizes.get(path, 0) for path in gone), kept)


def _damaged(path: str, current: bool) -> str:
    of = "the newest version" if current else "an earlier version"
    return f"The file {path} of {of} is not what was written: its bytes have changed."


def _nobody(_: str) -> None:
    """Nobody listens."""
