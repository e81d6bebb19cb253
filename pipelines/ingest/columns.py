"""From the columns of a file or a database to a source's: its two times as UTC instants, and the types of its schema.

Files and databases cannot always say a column's type: a CSV's whole numbers may be fractions of which this file has
none, SQLite has neither booleans nor times, a column without a value has no type at all. So a column takes the type
that the source's schema names for it when nothing is lost by that; anything else stays as it came, for the validation
to refuse. This module reads no file and no database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any
from uuid import UUID

import polars as pl

from millrace.errors import SourceError
from millrace.source import EVENT_TIME, KNOWN_AT, Source

INSTANT = pl.Datetime("us", "UTC")
Types = Mapping[str, Any]
"""Polars types by column."""

_FORMS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M%:z")
"""How ISO 8601 texts are written, the commonest first. A column may hold several: Python leaves out zero fractions."""


def no_rows() -> pl.DataFrame:
    """No rows, of which only the two times are known."""
    return pl.DataFrame(schema={EVENT_TIME: INSTANT, KNOWN_AT: INSTANT})


def declared_types(source: Source) -> Types:
    """The types that the source's schema names; without a schema of columns none."""
    schema = source.schema()
    schema = schema.to_schema() if hasattr(schema, "to_schema") else schema
    columns = getattr(schema, "columns", {})
    return {name: column.dtype.type for name, column in columns.items() if getattr(column.dtype, "type", None)}


def with_times(source: str, rows: pl.LazyFrame, event_time: str, known_at: str) -> pl.LazyFrame:
    """The rows with these two columns renamed to `event_time` and `known_at`, as UTC instants in microseconds.

    Dates are their midnight, ISO 8601 texts are read (one that cannot be is missing), and what has no zone is UTC.
    Raises `SourceError` when a column is not there or is no time; so does collecting when no text of it is one.
    """
    schema = rows.collect_schema()
    missing = sorted({event_time, known_at} - set(schema))
    if missing:
        raise SourceError(
            f"The rows of source {source!r} have no column {', '.join(missing)}.",
            looked=f"They have the columns {', '.join(schema)}.",
            todo="Name the columns of the two times: event_time='…', known_at='…'.",
        )
    given = {EVENT_TIME: event_time, KNOWN_AT: known_at}
    changed = {
        name: _instant(source, column, schema[column])
        for name, column in given.items()
        if name != column or schema[column] != INSTANT
    }
    return rows.with_columns(**changed).drop({event_time, known_at} - set(given)) if changed else rows


def _instant(source: str, name: str, kind: pl.DataType) -> pl.Expr:
    if isinstance(kind, pl.Null):
        return pl.col(name).cast(INSTANT)
    if isinstance(kind, pl.Date | pl.Datetime):
        return _in_utc(pl.col(name), kind)
    if isinstance(kind, pl.String):
        return pl.col(name).map_batches(lambda texts: _instants(source, texts), return_dtype=INSTANT)
    raise SourceError(
        f"The column {name} of source {source!r} is {kind}, not a time.",
        todo="Make it a datetime or an ISO 8601 text, in the source's `prepare` or in its SELECT.",
    )


def _in_utc(column: pl.Expr, kind: pl.Date | pl.Datetime) -> pl.Expr:
    zone = kind.time_zone if isinstance(kind, pl.Datetime) else None
    at = column.cast(pl.Datetime("us", zone)).dt
    return at.convert_time_zone("UTC") if zone else at.replace_time_zone("UTC")


def _instants(source: str, texts: pl.Series) -> pl.Series:
    found = read_instants(texts)
    if len(texts) and found.null_count() == len(texts) > texts.null_count():
        raise SourceError(
            f"No value of the column {texts.name} of source {source!r} is a time.",
            todo="Write ISO 8601 (2013-04-01T06:00:00Z), or make it a datetime in the source's `prepare`.",
        )
    return found


def read_instants(texts: pl.Series) -> pl.Series:
    """ISO 8601 texts as UTC instants; what is not one is null. A third of a second for a million texts of one form."""
    name, texts = texts.name, texts.str.replace("T", " ", literal=True).str.replace(r"[Zz]$", "+00:00")
    first = texts.drop_nulls().head(1)
    found = pl.Series(name, [None], INSTANT).new_from_index(0, len(texts))
    for form in sorted(_FORMS, key=lambda form: _read_as(first, form).null_count()):
        if found.null_count() == texts.null_count():
            break
        found = found.zip_with(found.is_not_null(), _read_as(texts, form))
    return found.alias(name)


def _read_as(texts: pl.Series, form: str) -> pl.Series:
    return texts.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)


def stack(source: str, parts: Sequence[tuple[str, pl.DataFrame]]) -> pl.DataFrame:
    """The parts (what each is called, its rows) under each other, in the order of the first one's columns.

    Whole numbers become fractions where another part has some, and a column without a value takes any type. Raises
    `SourceError`, naming the column and the two parts, when they do not fit otherwise.
    """
    (first, head), *rest = parts
    for name, frame in rest:
        if set(frame.columns) != set(head.columns):
            differ = sorted(set(frame.columns) ^ set(head.columns))
            raise SourceError(
                f"Not all rows of source {source!r} have the column {', '.join(differ)}.",
                looked=f"{first} and {name} differ in it.",
                todo="Add or drop the column in the source's `prepare`, which sees one file at a time.",
            )
    types: dict[Any, pl.DataType] = {name: _common(source, name, parts) for name in head.columns}
    return pl.concat([frame.select(head.columns).cast(types) for _, frame in parts])


def _common(source: str, column: str, parts: Sequence[tuple[str, pl.DataFrame]]) -> pl.DataType:
    """The one type that all parts' values of a column can have."""
    found = {frame.schema[column]: name for name, frame in parts if frame[column].null_count() < frame.height}
    if len(found) <= 1:
        return next(iter(found), parts[0][1].schema[column])
    if all(kind.is_numeric() for kind in found):
        empty = [pl.DataFrame(schema={column: kind}) for kind in found]
        return pl.concat(empty, how="vertical_relaxed").schema[column]
    kinds = " and ".join(f"{kind} ({name})" for kind, name in found.items())
    raise SourceError(
        f"The column {column} of source {source!r} holds values of several types: {kinds}.",
        todo="Give it one type, in the data, in `types` of the source's Files, or in its SELECT.",
    )


def fitted(frame: pl.DataFrame, types: Types) -> pl.DataFrame:
    """The frame with these columns in these types where that loses nothing; decimals without one are fractions."""
    wanted = {name: types[name] for name in frame.columns if name in types}
    decimals = [name for name, kind in frame.schema.items() if kind == pl.Decimal and name not in wanted]
    columns = [_fit(frame[name], kind) for name, kind in wanted.items() if frame.schema[name] != kind]
    return frame.with_columns(*columns, pl.col(decimals).cast(pl.Float64))


def _fit(column: pl.Series, kind: Any) -> pl.Series:
    if column.null_count() == len(column):
        return pl.Series(column.name, [None], kind).new_from_index(0, len(column))
    read = _converted(column, kind)
    return column if read is None or read.null_count() > column.null_count() else read


def _converted(column: pl.Series, kind: Any) -> pl.Series | None:
    """The column in another type, a value that cannot be as null; None where the types have nothing in common."""
    have = column.dtype
    if isinstance(have, pl.Categorical | pl.Enum) and kind == pl.String:
        return column.cast(pl.String)
    if have == pl.String and kind == pl.Date:
        return column.str.to_date("%Y-%m-%d", strict=False)
    if kind == pl.Datetime and have == pl.String:
        return read_instants(column).cast(kind)
    if kind == pl.Datetime and isinstance(have, pl.Date | pl.Datetime):
        return column.to_frame().select(_in_utc(pl.col(column.name), have).cast(kind)).to_series()
    number = have.is_numeric() or have == pl.Boolean
    if number and (kind.is_numeric() or kind == pl.Boolean):
        cast = column.cast(kind, strict=False)
        return cast if cast.cast(have, strict=False).equals(column, null_equal=True) else None
    return None


def from_values(source: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Python values, as a database's driver gives them, as columns; ids (UUID) become texts.

    Raises `SourceError`, naming the column, when its values have no type in common.
    """
    columns = []
    for index, name in enumerate(names):
        values = list(map(itemgetter(index), rows))
        try:
            columns.append(pl.Series(name, _of_one_kind(values)))
        except (TypeError, OverflowError, RuntimeError) as error:
            kinds = sorted({type(value).__name__ for value in values} - {"NoneType"})
            raise SourceError(
                f"The column {name} of source {source!r} cannot be read: it holds {', '.join(kinds)}.",
                todo="Give it one plain type in a SELECT: CAST(… AS …).",
            ) from error
    return pl.DataFrame(columns)


def _of_one_kind(values: Sequence[Any]) -> Sequence[Any]:
    """Whole numbers beside fractions, and decimals that are infinite or no number, as fractions; ids as texts."""
    kinds = set(map(type, values)) - {type(None)}
    mixed = kinds <= {int, float, Decimal} and len(kinds) > 1
    if mixed or (kinds == {Decimal} and not all(value.is_finite() for value in values if value is not None)):
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values] if kinds == {UUID} else values
