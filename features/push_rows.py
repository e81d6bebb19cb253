"""The rows of a push: from what somebody sent, or a file of it, to a frame that fits the view.

What leaves here needs no further check: each row has the view's join keys, an event time and every feature (null if
unknown), nothing else, each value of its declared type. Errors name the row and the column and never repeat a value.
This module knows nothing of the lake, of stores, HTTP or Feast.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Any

import polars as pl

from features.catalog import ViewEntry
from features.request import Row, type_words, typed_value, wrong_value
from features.views import POLARS_TYPES
from millrace.errors import RequestError, first_line
from millrace.source import EVENT_TIME, KNOWN_AT

AHEAD = timedelta(minutes=5)
"""How far a row's times may lie after the moment of the push: senders' clocks differ."""
MAX_TEXT = 1_000
"""Most characters of one text."""
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
"""Microseconds since 1970 stay whole numbers in a double, which is what Redis compares."""
_BITS = {"Int32": 31, "Int64": 63}
_FLOAT32 = 3.4028234e38
_TIME = "UnixTimestamp"
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
"""A column name that an error may repeat."""


def checked(entry: ViewEntry, rows: Sequence[Row], *, now: datetime) -> pl.DataFrame:
    """The rows as a frame in their order: join keys, `event_time`, `known_at` (null where a row has none), features.

    Raises `RequestError` (422, naming the field): an unknown or a missing column, a null key or event time, a value of
    another type, a number that is not finite or does not fit, a time without its zone or later than `now` by more than
    `AHEAD`, two rows of one entity with the same times.
    """
    types = _types(entry)
    if not rows:
        raise RequestError(422, "A push needs at least one row.", field="rows")
    required = types.keys() - {KNOWN_AT}
    for place, row in enumerate(rows):
        if not required <= row.keys() <= types.keys():
            raise _wrong_columns(entry, row, place)
    never_null = {*entry.join_keys, EVENT_TIME}
    columns = {
        name: _column(rows, name, dtype, needed=name in never_null, latest=now + AHEAD) for name, dtype in types.items()
    }
    frame = pl.DataFrame(columns, schema={name: POLARS_TYPES[dtype] for name, dtype in types.items()})
    _refuse_repeats(entry, frame, now)
    return frame


def rows_of_file(entry: ViewEntry, path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or Parquet file, for `checked`. A CSV's columns are read as the view declares them.

    Raises `RequestError` when the file cannot be read so.
    """
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path).to_dicts()
        as_text = {_TIME: "String"}  # a time is told from its text, zone and all
        types = {name: POLARS_TYPES[as_text.get(dtype, dtype)] for name, dtype in _types(entry).items()}
        return pl.read_csv(path, schema_overrides=types).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RequestError(
            422,
            f"The file {path.name} cannot be read: {first_line(error)}.",
            looked=f"It was sought at {path}.",
            todo=_takes(entry),
        ) from error


def _types(entry: ViewEntry) -> dict[str, str]:
    """The columns that a row may have, with their Feast types."""
    keys = dict(zip(entry.join_keys, entry.key_types, strict=True))
    types = keys | {EVENT_TIME: _TIME, KNOWN_AT: _TIME} | dict(entry.features)
    strange = [name for name, dtype in types.items() if dtype not in POLARS_TYPES]
    if strange:
        raise RequestError(
            422,
            f"The view {entry.name} cannot be pushed to: {', '.join(strange)} is not a single value.",
            field="view",
            todo="Let a feature table's build function give it.",
        )
    return types


def _takes(entry: ViewEntry) -> str:
    return (
        f"A row of {entry.name} has {', '.join((*entry.join_keys, EVENT_TIME, *(name for name, _ in entry.features)))}"
        f" and, if it was not known just now, {KNOWN_AT}."
    )


def _wrong_columns(entry: ViewEntry, row: Row, place: int) -> RequestError:
    """The error of a row whose columns are not the view's; a name that is no plain word is not repeated."""
    types = _types(entry)
    unknown = sorted(str(name) for name in row.keys() - types.keys())
    if unknown:
        name = f".{unknown[0]}" if PLAIN.fullmatch(unknown[0]) else ""
        what = f"The view {entry.name} has no column of this name."
        return RequestError(422, what, field=f"rows[{place}]{name}", todo=_takes(entry))
    name = next(name for name in types if name not in row and name != KNOWN_AT)
    orelse = ", or null" if name in dict(entry.features) else ""
    todo = f"Give {name} ({type_words(types[name])}{orelse})."
    return RequestError(422, f"Row {place} lacks {name}.", field=f"rows[{place}].{name}", todo=todo)


def _column(rows: Sequence[Row], name: str, dtype: str, *, needed: bool, latest: datetime) -> list[Any]:
    values = []
    for place, row in enumerate(rows):
        value = row.get(name)
        if value is not None:
            value = typed_value(value, name, dtype, place)
            wrong = _unfit(value, dtype, latest if name in (EVENT_TIME, KNOWN_AT) else None)
            if wrong:
                raise wrong_value(name, wrong, place)
        elif needed:
            raise wrong_value(name, f"{type_words(dtype)}, not null", place)
        values.append(value)
    return values


def _unfit(value: Any, dtype: str, latest: datetime | None) -> str:
    """What a value of the right type must be beside that; empty when it is."""
    if isinstance(value, float):
        fits = isfinite(value) and (dtype != "Float32" or abs(value) <= _FLOAT32)
        return "" if fits else "a finite number that fits its type, or null"
    if dtype in _BITS:
        return "" if -(2 ** _BITS[dtype]) <= value < 2 ** _BITS[dtype] else f"a whole number of {_BITS[dtype] + 1} bits"
    if isinstance(value, str):
        return "" if _is_text(value) else f"a text of at most {MAX_TEXT:,} characters, none of them NUL"
    if latest is not None and not _EARLIEST <= value <= latest:
        return f"a time after 1900 and at most {AHEAD.seconds // 60} minutes from now"
    return ""


def _is_text(value: str) -> bool:
    """Whether every store can keep it; half of a surrogate pair has no UTF-8."""
    return len(value) <= MAX_TEXT and "\0" not in value and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _refuse_repeats(entry: ViewEntry, frame: pl.DataFrame, now: datetime) -> None:
    known = frame.select(*entry.join_keys, EVENT_TIME, pl.col(KNOWN_AT).fill_null(now))
    if known.n_unique() < known.height:
        place = known.select(pl.struct(pl.all()).is_first_distinct()).to_series().arg_min()
        raise RequestError(
            422,
            f"Row {place} repeats the entity and the times of a row before it.",
            field=f"rows[{place}].{EVENT_TIME}",
            todo=f"Send one of them, or give each its own {KNOWN_AT}.",
        )
