"""Where scores go: a folder of Parquet, a table of the lake, a table of a database. Each takes a chunk exactly once.

A sink is asked before the first chunk whether it can take the job's columns. Writing a chunk again, after a crash or
after a failure of which nobody knows how far it came, leaves what writing it once does. This module knows nothing of
how scores are made.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol, TypeVar

import polars as pl

from millrace.errors import BusyError, LakeError, MillraceError, ScoreJobError, first_line
from millrace.lake import Lake
from millrace.lake.types import storable

T = TypeVar("T")
PATIENCE = 90.0
"""Seconds for which a sink that fails is asked again, with growing pauses, before the job stops."""
_LONGEST_PAUSE = 15.0
_FULL = ("no space left", "disk is full", "disk quota exceeded", "file too large")


class AwayError(ScoreJobError):
    """A place does not answer, or not as it should; it may do so later."""


class Sink(Protocol):
    """An output. `write` may be called from one thread at a time."""

    def check(self, schema: pl.Schema) -> None:
        """Make the place if it is not there; `ScoreJobError` when it has other columns, or cannot be written."""

    def write(self, chunk: int, frame: pl.DataFrame) -> None:
        """Write a chunk's rows (none is fine), all or nothing, once however often it is called."""

    def close(self) -> None:
        """Release connections, and remove what the run left aside."""


class FolderSink:
    """Parquet files `FOLDER/run_id=ID/part-NNNNNN.parquet`, one a chunk: written aside, then renamed.

    What lies aside is beside the folder, so that whoever reads the folder meanwhile sees whole parts only.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._parts = folder, folder / f"run_id={run}"
        self._aside = folder.parent / f".{folder.name}.{run}"

    def check(self, schema: pl.Schema) -> None:
        """See `Sink.check`."""
        part = next(self._folder.rglob("*.parquet"), None) if self._folder.is_dir() else None
        if part is not None:
            _compare(_schema(part), schema, f"The folder {self._folder} ({part.name})")
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            self._aside.mkdir(exist_ok=True)
        except OSError as error:
            raise ScoreJobError(
                f"The output folder {self._folder} cannot be made: {error.strerror}.", todo="Choose another --output."
            ) from error

    def write(self, chunk: int, frame: pl.DataFrame) -> None:
        """See `Sink.write`."""
        content, name = BytesIO(), f"part-{chunk:06}.parquet"
        frame.write_parquet(content)
        self._aside.mkdir(exist_ok=True)
        aside = self._aside / name
        aside.write_bytes(content.getbuffer())
        aside.rename(self._parts / name)

    def close(self) -> None:
        """See `Sink.close`."""
        shutil.rmtree(self._aside, ignore_errors=True)


def _schema(part: Path) -> pl.Schema:
    try:
        return pl.Schema(pl.read_parquet_schema(part))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ScoreJobError(
            f"The output folder holds a file that is no Parquet: {first_line(error)}.",
            looked=f"It is {part}.",
            todo="Choose another --output, or move the file away.",
        ) from error


class LakeSink:
    """A table of the lake, to which each chunk is one commit that carries its name."""

    def __init__(self, lake: Lake, table: str, run: str) -> None:
        self._lake, self._table, self._run = lake, table, run

    def check(self, schema: pl.Schema) -> None:
        """See `Sink.check`."""
        if self._lake.exists(self._table):
            stored = self._lake.scan(self._table).collect_schema()
            as_stored = storable(pl.DataFrame(schema=schema), pl.Schema(), self._lake.uri(self._table)).schema
            _compare(stored, as_stored, f"The table {self._table} of the lake")

    def write(self, chunk: int, frame: pl.DataFrame) -> None:
        """See `Sink.write`."""
        self._lake.append(self._table, frame, batch=batch_name(self._run, chunk))

    def close(self) -> None:
        """See `Sink.close`."""


def batch_name(run: str, chunk: int) -> str:
    """What a chunk is called in the lake's tables."""
    return f"score:{run}:{chunk}"


def _compare(stored: Mapping[str, pl.DataType], ours: Mapping[str, pl.DataType], what: str) -> None:
    """Raise `ScoreJobError` unless the output has exactly the job's columns and types."""
    both = [name for name in ours if name in stored]
    wrong = [f"{name} is {stored[name]}, not {ours[name]}" for name in both if stored[name] != ours[name]]
    wrong += [f"{name} is not there" for name in ours if name not in stored]
    wrong += [f"{name} is only there" for name in stored if name not in ours]
    if wrong:
        raise ScoreJobError(
            f"{what} has other columns than these scores: {'; '.join(wrong[:5])}.",
            looked="Nothing was written.",
            todo="Choose another --output, or move the old scores away.",
        )


def patiently(action: Callable[[], T], *, what: str) -> T:
    """The action's result, tried again while it fails as something does that is away for a while.

    Raises `ScoreJobError` at once when a disk is full, and after `PATIENCE` seconds otherwise.
    """
    began, pause = monotonic(), 0.5
    while True:
        try:
            return action()
        except (OSError, LakeError, BusyError, AwayError) as error:
            if is_full(error):
                raise _stopped(what, "there is no space left", "Make room") from error
            if monotonic() - began + pause > PATIENCE:
                raise _stopped(what, _said(error), "See that it answers again") from error
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(error).lower() for words in _FULL):
            return True
        error = error.__cause__
    return False


def _said(error: BaseException) -> str:
    return error.what.rstrip(".") if isinstance(error, MillraceError) else first_line(error)


def _stopped(what: str, why: str, then: str) -> ScoreJobError:
    return ScoreJobError(
        f"{what} cannot be written: {why}.",
        looked="Every chunk that was committed is whole; at most one for each worker is done again.",
        todo=f"{then} and type the same command again: it goes on where it stopped.",
    )
