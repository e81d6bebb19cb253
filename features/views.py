"""What the platform needs to know of a Feast feature view: its keys, its layout online, its rows offline.

These functions take Feast's objects but import nothing of Feast.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import polars as pl

from features.asof import FeatureRows
from features.online_store import layout
from millrace.errors import FeatureError, first_line


def join_keys(view: Any) -> list[str]:
    """The view's own entity columns, sorted: the order in which the online stores keep them."""
    return sorted(field.name for field in view.entity_columns)


def row_keys(view: Any) -> dict[str, str]:
    """The view's entity columns to the columns of the rows that they are joined to (Feast's `with_join_key_map`)."""
    return {key: view.projection.join_key_map.get(key, key) for key in join_keys(view)}


def stored_features(view: Any) -> list[tuple[str, str]]:
    """Every feature of the view with its Feast type, in the order in which the online stores keep them."""
    return [(field.name, str(field.dtype)) for field in view.features]


def view_layout(view: Any) -> str:
    """The name of the view's layout in the online stores."""
    return layout(view.name, join_keys(view), stored_features(view))


def time_to_live(view: Any) -> timedelta | None:
    """The view's TTL; Feast writes "never expires" as None or zero."""
    return view.ttl or None


def scan_source(source: Any, options: dict[str, str]) -> pl.LazyFrame:
    """The rows of a Feast file source, lazily: a Delta table of the lake, or a Parquet file or folder."""
    path, kind = source.path, type(source.file_format).__name__
    try:
        rows = pl.scan_delta(path, storage_options=options) if kind == "DeltaFormat" else pl.scan_parquet(path)
        rows.collect_schema()
    except Exception as error:
        raise FeatureError(
            f"The feature source {source.name!r} cannot be read: {first_line(error)}.",
            looked=f"It should lie at {path} as {kind.removesuffix('Format') or 'Parquet'}.",
            todo="Build the feature tables first: millrace materialize NAME --as-of …",
        ) from error
    return rows.rename({old: new for old, new in source.field_mapping.items() if old != new}, strict=False)


POLARS_TYPES: dict[str, pl.DataType] = {
    "String": pl.String(),
    "Bool": pl.Boolean(),
    "Int32": pl.Int32(),
    "Int64": pl.Int64(),
    "Float32": pl.Float32(),
    "Float64": pl.Float64(),
    "UnixTimestamp": pl.Datetime("us", "UTC"),
}
"""Feast's scalar types. Values are cast to the declared type offline and online, so that both give the same number."""


def typed(view: Any, rows: pl.LazyFrame, features: Iterable[str]) -> pl.LazyFrame:
    """The rows with these features cast to the types that the view declares.

    Raises `FeatureError` when the table lacks a column of the view.
    """
    columns = rows.collect_schema()
    source = view.batch_source
    times = [source.timestamp_field] + ([source.created_timestamp_column] if source.created_timestamp_column else [])
    missing = [name for name in (*join_keys(view), *features, *times) if name not in columns]
    if missing:
        raise FeatureError(
            f"The feature view {view.name!r} declares {', '.join(missing)}, which its table does not have.",
            looked=f"The table {source.path} has the columns {', '.join(columns)}.",
            todo="Return the column from the feature table's build function, or take it out of the view's schema.",
        )
    types = {name: POLARS_TYPES.get(dtype) for name, dtype in stored_features(view) if name in set(features)}
    return rows.cast({name: dtype for name, dtype in types.items() if dtype is not None and dtype != columns[name]})


def feature_rows(view: Any, features: dict[str, str], options: dict[str, str]) -> FeatureRows:
    """The view's rows for a point-in-time join; `features` maps the wanted ones to their names in the answer."""
    source = view.batch_source
    return FeatureRows(
        rows=typed(view, scan_source(source, options), list(features)),
        keys=row_keys(view),
        columns=features,
        event=source.timestamp_field,
        created=source.created_timestamp_column or None,
        ttl=time_to_live(view),
    )
