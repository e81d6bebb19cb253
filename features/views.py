"""What the platform needs to know of a Feast feature view: its keys, its layout online, its rows offline.

These functions take Feast's objects but import nothing of Feast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal, get_args

import polars as pl

from features.asof import FeatureRows
from features.online_store import layout
from features.pushed import with_pushed
from millrace.errors import FeatureError, UseCaseError, first_line

Stale = Literal["serve", "flag", "refuse"]
"""What serving does with a stored row past its view's TTL: use it and say so (`serve`), take its values as missing and
say so (`flag`), or refuse the request (`refuse`)."""
Down = Literal["default", "refuse"]
"""What serving does while the online store does not answer: take the view's values as missing, which is what the model
saw of an entity without any, and say so (`default`), or refuse the request (`refuse`)."""


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


def stale_policy(view: Any) -> Stale:
    """What the view's tag `stale` declares, `flag` without one; `UseCaseError` when it is none of the policies."""
    return _policy(view, "stale", "flag", get_args(Stale))  # type: ignore[return-value]  # one of the literal's strings


def down_policy(view: Any) -> Down:
    """What the view's tag `down` declares, `default` without one; `UseCaseError` when it is none of the policies."""
    return _policy(view, "down", "default", get_args(Down))  # type: ignore[return-value]  # one of the literal's strings


def _policy(view: Any, tag: str, without: str, policies: Sequence[str]) -> str:
    said: str = view.tags.get(tag, without)
    if said not in policies:
        raise UseCaseError(
            f"The feature view {view.name!r} has the tag {tag}={said!r}, which is no policy.",
            todo=f"Write tags={{'{tag}': …}} with one of: {', '.join(policies)}.",
        )
    return said


def scan_source(source: Any, options: dict[str, str]) -> pl.LazyFrame:
    """The rows of a Feast file source, lazily, with the names that its `field_mapping` gives the columns."""
    return scan_file(source, options).rename(dict(source.field_mapping), strict=False)


def scan_file(source: Any, options: dict[str, str]) -> pl.LazyFrame:
    """The rows of a Feast file source as they lie there: a Delta table of the lake, or a Parquet file or folder."""
    path, kind = source.path, type(source.file_format).__name__
    try:
        rows = pl.scan_delta(path, storage_options=options) if kind == "DeltaFormat" else pl.scan_parquet(path)
        rows.collect_schema()
    except Exception as error:  # deltalake's, polars' and the object store's errors have no common parent
        raise FeatureError(
            f"The feature source {source.name!r} cannot be read: {first_line(error)}.",
            looked=f"It should lie at {path} as {kind.removesuffix('Format') or 'Parquet'}.",
            todo="Build the feature tables first: millrace materialize NAME --as-of …",
        ) from error
    return rows


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
    """The view's rows, built and pushed, for a point-in-time join; `features` maps the wanted to their names there."""
    source = view.batch_source
    event, created = source.timestamp_field, source.created_timestamp_column or None
    rows = typed(view, scan_source(source, options), list(features))
    columns = [*join_keys(view), *features, event, *([created] if created else [])]
    return FeatureRows(
        rows=with_pushed(rows, view.name, columns, table=source.path, options=options),
        keys=row_keys(view),
        columns=features,
        event=event,
        created=created,
        ttl=time_to_live(view),
    )
