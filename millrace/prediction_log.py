"""The prediction log: one row per served prediction, written by serving and read by monitoring through the lake.

Online rows go to append-only segment files, one write a micro-batch, before the answer leaves; a process that dies
leaves whole records and at most one torn tail, which nobody was told about. `ship` moves every segment whose writer is
gone into the lake exactly once (the segment's name is the lake's batch). Batch scores go to the same table directly.
This module knows nothing of models or requests: a feature is a name and whether it is a number, numbers or text.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import secrets
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, Protocol
from zlib import crc32

import msgspec
import polars as pl

from millrace.inputs import is_numeric_array
from millrace.settings import Settings
from millrace.source import EVENT_TIME, KNOWN_AT

TABLE = "predictions"
"""The lake's table of predictions, online and batch."""

COLUMNS: Mapping[str, pl.DataType] = {
    "prediction_id": pl.String(),
    "version": pl.Int64(),
    "served_at": pl.Datetime("us", "UTC"),
    EVENT_TIME: pl.Datetime("us", "UTC"),
    KNOWN_AT: pl.Datetime("us", "UTC"),
    "channel": pl.String(),
    "row_key": pl.String(),
    "flags": pl.String(),
    "score": pl.Float64(),
}
"""What every row of the table has; behind it one column a feature, numbers as Float64, arrays as lists of Float32 (what
the model saw of them) and all else as String, so that the table keeps one schema across model versions."""
PREDICTED = "predicted"
"""The column of the predicted class, as text, in the rows of models that have classes; `score` is its probability.
A table in which no such model has predicted lacks the column."""

Kind = Literal["number", "numbers", "text"]
"""How a feature is stored."""
_TYPES: Mapping[Kind, Any] = {"number": pl.Float64, "numbers": pl.List(pl.Float32), "text": pl.String}

_HEADER = struct.Struct("<II")  # length and CRC-32 of the record behind it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODER = msgspec.msgpack.Encoder()
_logger = logging.getLogger(__name__)


class Prediction(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One served row. Times are microseconds since 1970 UTC: `event_time` is the instant predicted at; `row_key` the
    population's key (`row_key`) or empty; `flags` joined with commas; `features` in the order the log was told."""

    prediction_id: str
    version: int
    served_at: int
    event_time: int
    row_key: str
    flags: str
    score: float
    features: Sequence[Any]


class _Record(msgspec.Struct, array_like=True):
    features: dict[str, Kind]
    rows: list[Prediction]
    predicted: list[str] = []  # msgspec gives each record a list of its own


class Appendable(Protocol):
    """What `ship` and `log_batch` need of the lake: `millrace.lake.Lake`, or a fake."""

    def append(self, table: str, frame: pl.DataFrame, *, batch: str | None = None) -> Any:
        """Add the rows unless the batch is already there; returns a commit with `rows` and `repeated`."""


def log_folder(settings: Settings, use_case: str) -> Path:
    """Where the servers of this machine leave the segments of a use case, for `ship`."""
    return settings.folder("predictions") / use_case


def microseconds(at: datetime) -> int:
    """A timezone-aware instant as microseconds since 1970 UTC, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def row_key(values: Sequence[Any]) -> str:
    """A row's key columns as one text, equal to what `row_keys` gives for the same row of a frame."""
    return "|".join(_text(value) for value in values)


def row_keys(columns: Sequence[str], schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """The same for every row of a frame of this schema.

    Times are written `2013-01-01T05:00:00Z`, null as nothing, all else as text.
    """
    return pl.concat_str([_text_of(name, schema[name]) for name in columns], separator="|").alias("row_key")


class PredictionLog:
    """An open segment of one process, closed and followed by another every `max_bytes` and at every `rotate`.

    The file is locked while its writer lives, which is how `ship` knows what is finished. Threads may share it.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 16 << 20) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._file: int | None = None
        self._size = 0
        self._failed_at = -math.inf
        self._turn = threading.RLock()

    @property
    def failing(self) -> bool:
        """Whether rows could not be written in the last second: a full disk is asked again once a second."""
        return self._failed_at > 0 and time.monotonic() - self._failed_at < 1

    def append(self, features: Mapping[str, Kind], rows: Sequence[Prediction], predicted: Sequence[str] = ()) -> None:
        """Write the rows as one record, with the class that each predicted; on return they survive this process.

        Raises `OSError` when they cannot be written (a full disk); then none of them is in the log.
        """
        payload = _ENCODER.encode((features, rows, predicted) if predicted else (features, rows))
        record = _HEADER.pack(len(payload), crc32(payload)) + payload
        with self._turn:
            try:
                self._write(record, rows[0].served_at)
            except OSError:
                self._failed_at = time.monotonic()
                raise
            if self._size >= self._max_bytes:
                self.rotate()

    def _write(self, record: bytes, served_at: int) -> None:
        file = self._file if self._file is not None else self._open(served_at)
        try:
            written = os.write(file, record)
            if written != len(record):
                raise OSError(errno.ENOSPC, f"only {written} of {len(record)} bytes fit the prediction log")
        except OSError:
            os.ftruncate(file, self._size)
            raise
        self._size += written

    def rotate(self) -> None:
        """Finish the segment, if there is one, so that it can be shipped."""
        with self._turn:
            if self._file is not None:
                os.close(self._file)
                self._file, self._size = None, 0

    close = rotate

    def _open(self, served_at: int) -> int:
        """A new segment, locked before it gets the name that `ship` looks for."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{served_at:016d}-{secrets.token_hex(6)}.new"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        path.rename(path.with_suffix(".log"))
        self._file, self._size = file, 0
        return file


def ship(folder: Path, lake: Appendable) -> int:
    """Move every finished segment of `folder` into the lake; returns how many rows were new there.

    Killed at any point and run again, or run twice at once, each row arrives once. A segment with a damaged record in
    its middle gives its other rows and is kept aside as `.damaged`.
    """
    shipped = 0
    for path in sorted(folder.glob("*.log")):
        with _claim(path) as file:
            if file is None:
                continue
            records, damaged = _read(file)
            frame = _frame(records)
            if frame.height:
                commit = lake.append(TABLE, frame, batch=path.stem)
                shipped += 0 if commit.repeated else frame.height
            if damaged:
                _logger.error("prediction log: %d records of %s are damaged", damaged, path.name)
                path.rename(path.with_suffix(".damaged"))
            else:
                path.unlink(missing_ok=True)
    return shipped


def log_batch(lake: Appendable, frame: pl.DataFrame, *, batch: str, features: Sequence[str] | None = None) -> int:
    """Log batch scores; returns how many rows were new (0 when this batch was logged before).

    `frame` has `version`, `served_at`, `event_time` and `score`, optionally `row_key` and `flags`; `features` are the
    other columns to keep, `predicted` among them (None: all of them). Prediction ids are the batch's name and the row's
    number.
    """
    given = frame.with_columns(
        pl.concat_str([pl.lit(f"{batch}:"), pl.int_range(pl.len()).cast(pl.String)]).alias("prediction_id"),
        pl.col("served_at").alias(KNOWN_AT),
        pl.lit("batch").alias("channel"),
        *(pl.lit("").alias(name) for name in ("row_key", "flags") if name not in frame.columns),
    )
    kept = [name for name in given.columns if name not in COLUMNS and (features is None or name in features)]
    stored = [_stored(name, given.schema[name]) for name in kept]
    rows = given.select(*(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items()), *stored)
    return 0 if lake.append(TABLE, rows, batch=batch).repeated else rows.height


def _stored(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.Null:  # of a type the lake may know from other batches
        return pl.col(name)
    if is_numeric_array(dtype):
        return pl.col(name).cast(_TYPES["numbers"])
    return pl.col(name).cast(pl.Float64 if dtype.is_numeric() or dtype == pl.Boolean else pl.String)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and value[10:11] == "T":
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value)


def _text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        column = column.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return column.cast(pl.String).fill_null("")


@contextmanager
def _claim(path: Path) -> Iterator[BufferedReader | None]:
    """The segment's file, locked, or None while its writer (or another shipper) holds it or when it is gone."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def _read(file: BufferedReader) -> tuple[list[_Record], int]:
    """The whole records of a segment and how many were damaged; a torn tail is not damage."""
    records: list[_Record] = []
    damaged = 0
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        payload = file.read(length)
        if len(payload) < length:
            break
        if crc32(payload) == checksum:
            records.append(msgspec.msgpack.decode(payload, type=_Record))
        else:
            damaged += 1
    return records, damaged


def _frame(records: Sequence[_Record]) -> pl.DataFrame:
    """The records as rows of the table; a feature that one model version lacks is null in its rows."""
    groups: dict[tuple[Any, ...], _Record] = {}
    for record in records:
        known = groups.setdefault((*record.features.items(), bool(record.predicted)), _Record(record.features, []))
        known.rows += record.rows
        known.predicted += record.predicted
    frames = [_group(group.features, group.rows, group.predicted) for group in groups.values()]
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame(schema=dict(COLUMNS))


def _group(features: Mapping[str, Kind], rows: Sequence[Prediction], predicted: Sequence[str]) -> pl.DataFrame:
    fixed: dict[str, list[Any]] = {
        "prediction_id": [row.prediction_id for row in rows],
        "version": [row.version for row in rows],
        "served_at": [row.served_at for row in rows],
        EVENT_TIME: [row.event_time for row in rows],
        KNOWN_AT: [row.served_at for row in rows],
        "channel": ["online"] * len(rows),
        "row_key": [row.row_key for row in rows],
        "flags": [row.flags for row in rows],
        "score": [row.score for row in rows],
    }
    columns = [pl.Series(name, values).cast(COLUMNS[name]) for name, values in fixed.items()]
    if predicted:
        columns.append(pl.Series(PREDICTED, predicted, dtype=pl.String))
    for index, (name, kind) in enumerate(features.items()):
        as_kind: Any = {"number": float, "numbers": list, "text": _text}[kind]
        values: list[Any] = [None if row.features[index] is None else as_kind(row.features[index]) for row in rows]
        columns.append(pl.Series(name, values, dtype=_TYPES[kind]))
    return pl.DataFrame(columns)
