"""Which rows can be scored: the input's columns checked once, then every value, a column at a time.

The rules are the online endpoint's (`serving.online.bodies`): numbers fit a float32, texts have no NUL and at most
1,000 characters, a missing value is missing whether null or NaN, and a category that training never saw is scored.
A value that breaks a rule rejects its row and no other. This module knows nothing of files, models or sinks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from millrace.errors import FeatureError
from millrace.inputs import is_numeric_array
from serving.online.bodies import MAX_TEXT, ColumnType, Numbers

INSTANT = pl.Datetime("us", "UTC")
SAMPLE_ROWS = 1_000
"""Rows of an input without types that tell whether a column can be what it should."""
_FLOAT32 = 3.4028234e38
_EARLIEST, _LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_FORMS = ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M%:z", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_WORDS: Mapping[str, str] = {
    "number": "a number that fits a float32",
    "integer": "a whole number",
    "text": f"a text of at most {MAX_TEXT:,} characters without NUL",
    "flag": "true or false",
    "instant": "a time between 1900 and 2200",
    "key": f"a key of at most {MAX_TEXT:,} characters without NUL",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that a job reads.

    `needed` must be there, `optional` are used where they are; a row must have a value in each of `filled`. `texts`:
    the input has no types of its own (CSV, SQL), so that texts are read as what they should be. What is `beside` is
    read as it is.
    """

    needed: Mapping[str, ColumnType]
    optional: Mapping[str, ColumnType]
    filled: Collection[str]
    texts: bool = False
    beside: Collection[str] = ()

    def of(self, schema: Iterable[str]) -> dict[str, ColumnType]:
        """Those that rows with these columns have."""
        there = set(schema)
        return {name: kind for name, kind in {**self.optional, **self.needed}.items() if name in there}


def check_columns(schema: pl.Schema, wanted: Wanted, *, where: str) -> None:
    """Raise `FeatureError`, naming the column, when the rows `where` lack one, or hold one of a wrong type."""
    missing = [name for name in wanted.needed if name not in schema]
    if missing:
        raise FeatureError(
            f"The rows to score lack the column {', '.join(missing)}.",
            looked=f"{where} has {', '.join(schema) or 'no column'}.",
            todo="Bring the column, or have features joined: --join point-in-time or latest.",
        )
    for name, kind in wanted.of(schema).items():
        if not _can_be(schema[name], kind, wanted.texts):
            raise FeatureError(
                f"The column {name} must be {_words(kind)}, but the rows hold {schema[name]}.",
                looked=f"Looked at {where}; nothing was scored.",
                todo="Write the column in its type; the model's contract names it: GET /v1/USE_CASE/contract.",
            )


def check_sample(frame: pl.DataFrame, wanted: Wanted, *, where: str) -> None:
    """The same for rows whose types say little: `FeatureError` for a column of which no value can be read."""
    for name, kind in wanted.of(frame.columns).items():
        _, faults = _rules(name, frame.schema[name], kind, wanted.texts)
        given = frame.filter(pl.col(name).is_not_null())
        if faults and given.height and given.select(pl.any_horizontal(faults).all()).item():
            raise FeatureError(
                f"The column {name} must be {_words(kind)}, but not one of its first {given.height:,} values is.",
                looked=f"Looked at {where}; nothing was scored.",
                todo="Name the column differently, or write its values in its type.",
            )


def judge(frame: pl.DataFrame, wanted: Wanted) -> tuple[pl.DataFrame, pl.Series | None]:
    """The rows with the wanted columns in their types, and of each row why it cannot be scored (null: it can be).

    None instead of a column of reasons when every row can be. Other columns stay as they are.
    """
    values: list[pl.Expr] = []
    masks: list[pl.Expr] = []
    reasons: list[str] = []
    for name, kind in wanted.of(frame.columns).items():
        value, faults = _rules(name, frame.schema[name], kind, wanted.texts)
        values.append(value.alias(name))
        told = [(fault, f"{name} must be {_words(kind)}") for fault in faults]
        if name in wanted.filled:
            told.append((value.is_null(), f"{name} is missing"))
        for fault, reason in told:
            masks.append(fault.fill_null(value=False).alias(f"__fault{len(masks)}"))
            reasons.append(reason)
    found = frame.with_columns(*values, *masks)
    names = [f"__fault{place}" for place in range(len(masks))]
    broken = found.select(pl.col(names).any()).row(0) if names else ()
    typed = found.drop(names)
    if not any(broken):
        return typed, None
    said = [pl.when(pl.col(n)).then(pl.lit(r)) for n, r, b in zip(names, reasons, broken, strict=True) if b]
    why = pl.when(pl.any_horizontal(names)).then(pl.concat_str(said, separator="; ", ignore_nulls=True))
    return typed, found.select(why.alias("reason")).to_series()


def _can_be(dtype: pl.DataType, kind: ColumnType, texts: bool) -> bool:
    if dtype == pl.Null:
        return True
    if isinstance(kind, Numbers):
        return is_numeric_array(dtype)
    if texts and (dtype == pl.String or (kind in ("text", "key") and not dtype.is_nested())):
        return True
    if kind == "flag":
        return dtype == pl.Boolean or (texts and dtype.is_integer())
    if kind == "instant":
        return isinstance(dtype, pl.Datetime | pl.Date)
    if kind == "key":
        return not dtype.is_nested()
    if kind == "text":
        return dtype in (pl.String, pl.Categorical, pl.Enum)
    return dtype.is_numeric() or (kind == "number" and dtype == pl.Boolean)


def _rules(name: str, dtype: pl.DataType, kind: ColumnType, texts: bool) -> tuple[pl.Expr, list[pl.Expr]]:
    """A column's value in its type, and what is true of the rows in which it cannot be used."""
    column = pl.col(name)
    if isinstance(kind, Numbers):
        return column, [] if dtype == pl.Null else [column.cast(pl.List(pl.Float64)).list.len() != kind.size]
    if dtype == pl.Null:
        return column, []
    if kind in ("text", "key"):
        if kind == "key" and dtype != pl.String:
            return (_instant(column, dtype) if isinstance(dtype, pl.Datetime) else column), []
        text = column.cast(pl.String)
        too_long = (text.str.len_bytes() > MAX_TEXT) & (text.str.len_chars() > MAX_TEXT)
        return text, [too_long | text.str.contains("\0", literal=True)]
    if texts and dtype == pl.String:
        value = _parsed(column, kind)
        unread = value.is_null() & column.is_not_null()
        return value, [unread, *_limits(value, kind)]
    return _typed(column, dtype, kind)


def _typed(column: pl.Expr, dtype: pl.DataType, kind: ColumnType) -> tuple[pl.Expr, list[pl.Expr]]:
    if kind == "number":
        return column, _limits(column, kind) if dtype.is_float() else []
    if kind == "integer" and dtype.is_float():
        return column.cast(pl.Int64, strict=False), [column.is_not_nan() & (column != column.floor())]
    if kind == "integer":
        return column.cast(pl.Int64, strict=False), []
    if kind == "instant":
        value = _instant(column, dtype)
        return value, _limits(value, kind)
    return column.cast(pl.Boolean), []


def _limits(value: pl.Expr, kind: ColumnType) -> list[pl.Expr]:
    """Numbers that are infinite or too large for a float32 (NaN is a missing one), and times out of all reason."""
    if kind == "number":
        return [value.is_not_nan() & (value.abs() > _FLOAT32)]
    if kind == "instant":
        return [~value.is_between(pl.lit(_EARLIEST, INSTANT), pl.lit(_LATEST, INSTANT), closed="left")]
    return []


def _parsed(column: pl.Expr, kind: ColumnType) -> pl.Expr:
    """Texts as what they should be; null for one that is not."""
    text = column.str.strip_chars()
    if kind == "number":
        return text.cast(pl.Float64, strict=False)
    if kind == "integer":
        return text.cast(pl.Int64, strict=False)
    if kind == "flag":
        truths = {"true": True, "1": True, "false": False, "0": False}
        return text.str.to_lowercase().replace_strict(truths, default=None, return_dtype=pl.Boolean)
    plain = text.str.replace("T", " ", literal=True).str.replace(r"[Zz]$", "+00:00")
    return pl.coalesce(plain.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in _FORMS)


def _instant(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """In UTC; without a zone it is UTC."""
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    at = column.cast(pl.Datetime("us", zone)).dt
    return at.convert_time_zone("UTC") if zone else at.replace_time_zone("UTC")


def _words(kind: ColumnType) -> str:
    return f"an array of {kind.size} numbers" if isinstance(kind, Numbers) else _WORDS[kind]
