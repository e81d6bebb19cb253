"""Features for the rows of a batch: the training set's point-in-time join, without Feast, each table read once.

When a job is planned, the rows that its views can answer with are copied into its folder: the needed columns of what
was known by the moment of the job. So one that goes on after a crash, or on another machine, joins the same rows. Views
are found in the catalog by their layout; importing Feast would cost eight seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from features.asof import INSTANT, FeatureRows, join_asof
from features.catalog import ViewEntry, read_catalog
from features.on_demand import with_on_demand
from features.plan import ReadPlan, ViewPlan
from features.pushed import with_pushed
from features.views import POLARS_TYPES
from millrace.errors import FeatureError
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from serving.batch.spec import Join

_EVENT, _KNOWN, _AT = "__event", "__known", "__at"


def copy_views(
    plan: ReadPlan, use_case: UseCase, settings: Settings, lake: Lake, folder: Path, *, known_by: datetime
) -> None:
    """Copy what the plan's views knew at `known_by` (UTC) into `folder`, one Parquet file a view.

    Raises `FeatureError` when a view is no longer what the model was trained on, or its rows lie outside of the lake.
    """
    entries = {entry.layout: entry for entry in read_catalog(use_case, settings)}
    folder.mkdir(parents=True, exist_ok=True)
    for place, view in enumerate(plan.views):
        entry = entries.get(view.layout)
        if entry is None or not entry.table:
            raise FeatureError(
                f"The feature view {view.name!r} cannot be joined to a batch of {plan.use_case!r}.",
                looked="Its rows lie outside of the lake." if entry else "It changed since the model was trained.",
                todo="Give the features with the rows (--join given), or train again: millrace train NAME.",
            )
        _known_rows(view, entry, lake, known_by).sink_parquet(_path(folder, place))


def _known_rows(view: ViewPlan, entry: ViewEntry, lake: Lake, known_by: datetime) -> pl.LazyFrame:
    created = [entry.created] if entry.created else []
    names = [*entry.join_keys, *(feature.name for feature in view.features), entry.event, *created]
    rows = lake.scan(entry.table)
    types: Any = {
        feature.name: POLARS_TYPES[feature.dtype] for feature in view.features if feature.dtype in POLARS_TYPES
    }
    rows = rows.select(list(dict.fromkeys(names))).cast(types)
    rows = with_pushed(rows, entry.name, rows.collect_schema().names(), table=entry.path, options=lake.options)
    event, known = pl.col(entry.event).cast(INSTANT), pl.col(entry.created or entry.event).cast(INSTANT)
    return (
        rows.with_columns(event.alias(_EVENT), known.alias(_KNOWN))
        .filter(pl.col(_KNOWN) <= known_by)
        .select(
            *(pl.col(theirs).alias(f"key{place}") for place, theirs in enumerate(entry.join_keys)),
            *(feature.name for feature in view.features),
            _EVENT,
            _KNOWN,
        )
    )


def open_views(plan: ReadPlan, folder: Path) -> list[FeatureRows]:
    """The copied rows of the plan's views, in memory, ready to be joined by `features.asof.join_asof`."""
    return [
        FeatureRows(
            rows=pl.read_parquet(_path(folder, place)).lazy(),
            keys={f"key{number}": key for number, key in enumerate(view.join_keys)},
            columns={feature.name: feature.name for feature in view.features},
            event=_EVENT,
            created=_KNOWN,
            ttl=None if view.ttl is None else timedelta(seconds=view.ttl),
        )
        for place, view in enumerate(plan.views)
    ]


class Joiner:
    """Joins the features of a read plan to rows that have its keys and request inputs. Threads may share one."""

    def __init__(
        self, plan: ReadPlan, use_case: UseCase, views: list[FeatureRows], join: Join, as_of: datetime
    ) -> None:
        """`join` says whether the features are those of each row's own `event_time` or of `as_of` (UTC)."""
        self._plan, self._use_case, self._views = plan, use_case, views
        self._at = pl.col(EVENT_TIME) if join == "point-in-time" else pl.lit(as_of, INSTANT)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows in their order with the plan's features, absent and expired ones null.

        Columns that have a feature's name are replaced, as in a training set.
        """
        joined = join_asof(rows.with_columns(self._at.alias(_AT)), _AT, self._views)
        joined = with_on_demand(self._plan, self._use_case, joined)
        features = joined.select(self._plan.features).get_columns()
        return rows.drop(self._plan.features, strict=False).with_columns(features)


def _path(folder: Path, place: int) -> Path:
    return folder / f"{place:03}.parquet"
