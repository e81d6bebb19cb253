"""Polars types as Delta Lake stores them: nothing unsigned, categorical or untyped, times in microseconds, arrays
as lists. It knows nothing of tables or commits.
"""

from __future__ import annotations

import polars as pl

from millrace.errors import LakeError


def storable(frame: pl.DataFrame, known: pl.Schema, uri: str) -> pl.DataFrame:
    """The frame in Delta's types and, where the table `known` has the column, in that column's.

    Whole numbers widen and become fractions as needed. `LakeError` for a column that would have to be bent further;
    `uri` is where the table lies, for the error.
    """
    wrong = misfits(frame.schema, known)
    if wrong:
        raise LakeError(
            f"The rows do not fit the table {'/'.join(uri.split('/')[-2:])!r}: {'; '.join(wrong)}.",
            looked=f"It lies at {uri}. Nothing was written.",
            todo="Return the columns with the types that the table has.",
        )
    types = {name: _storable(dtype, known.get(name)) for name, dtype in frame.schema.items()}
    return frame.cast({name: dtype for name, dtype in types.items() if dtype != frame.schema[name]})


def misfits(schema: pl.Schema, known: pl.Schema) -> list[str]:
    """The columns that a table with the columns `known` cannot take: `name is String, not Int64`."""
    types = {name: _storable(dtype, known.get(name)) for name, dtype in schema.items()}
    return [f"{name} is {types[name]}, not {dtype}" for name, dtype in known.items() if types.get(name, dtype) != dtype]


def _storable(dtype: pl.DataType, known: pl.DataType | None) -> pl.DataType:
    if isinstance(dtype, pl.Null):
        return known or pl.String()
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.Array):
        return pl.List(dtype.inner)
    if isinstance(dtype, pl.Datetime):
        return pl.Datetime("us", dtype.time_zone)
    if known is not None and dtype.is_numeric() and (known.is_float() or (dtype.is_integer() and known.is_integer())):
        return known
    return pl.Int64() if dtype.is_unsigned_integer() else dtype
