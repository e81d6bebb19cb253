"""Training sets: population rows, their features as of each row's own instant, and the labels known by `as_of`.

One instant counts for a row: `event_time` here is the moment of prediction (the source's event time less the
population's lead), and features see only what had happened and was known by then. Batch scoring joins the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.catalog import read_catalog
from features.on_demand import with_on_demand
from features.plan import read_plan
from features.pushed import pushed_table
from features.store import open_store
from features.tables import table_name
from millrace.errors import FeatureError, NoDataError
from millrace.lake import Lake
from millrace.outcome_log import TABLE as OUTCOMES
from millrace.outcomes import LABEL_KNOWN_AT, ROW_KEY, attach, posted, standing
from millrace.prediction_log import TABLE as PREDICTIONS
from millrace.prediction_log import row_keys
from millrace.settings import Settings
from millrace.source import EVENT_TIME, KNOWN_AT
from millrace.usecase import LABEL, Label, UseCase


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labelled rows with what they were made from.

    `frame` is sorted by `event_time` (the moment of prediction) and has the population's columns, one column for each
    of `features`, `label` (Int8: 0 or 1, or the position of the label's class) and `label_known_at`. `versions` are
    those of the lake's tables that were read. `unlabelled` rows of the population had no label by `as_of` and are not
    in the frame.
    """

    frame: pl.DataFrame
    features: tuple[str, ...]
    versions: dict[str, int]
    unlabelled: int


def population_rows(
    use_case: UseCase, lake: Lake, *, since: datetime, until: datetime, as_of: datetime
) -> pl.DataFrame:
    """The population's rows known at `as_of` whose moment of prediction lies in [since, until), in its order.

    The column `event_time` is that moment (UTC); the source's other columns follow, without `known_at`. Raises
    `NoDataError` when the population's source has not been ingested.
    """
    population = use_case.population
    rows = _known(use_case, lake, population.source.name, as_of)
    moment = (pl.col(EVENT_TIME) - population.lead).alias(EVENT_TIME)
    return (
        rows.drop(KNOWN_AT)
        .with_columns(moment)
        .filter(pl.col(EVENT_TIME) >= since, pl.col(EVENT_TIME) < until)
        .sort(EVENT_TIME, *population.source.key)
        .collect()
    )


def labels(use_case: UseCase, lake: Lake, *, as_of: datetime) -> pl.DataFrame:
    """What the label's source knew at `as_of`: the population's key columns, `label` (Int8) and `label_known_at` (UTC).

    What clients post comes beside it (`millrace.outcomes.posted`). `label` is 0 or 1, or the position of the label's
    class. Rows without an outcome are left out. Raises `NoDataError` when the label's source has not been ingested,
    `FeatureError` when the label has another value.
    """
    label = use_case.label
    rows = _known(use_case, lake, label.source.name, as_of).drop_nulls(label.column)
    found = rows.select(*label.source.key, _outcome(label).alias(LABEL), pl.col(KNOWN_AT).alias(LABEL_KNOWN_AT))
    frame = found.collect()
    if not frame[LABEL].is_between(0, max(len(label.classes), 2) - 1).fill_null(value=False).all():
        wanted = f"its classes, {', '.join(label.classes[:12])}" if label.classes else "0 and 1"
        raise FeatureError(
            f"The label {label.column!r} of {use_case.name!r} has other values than {wanted}.",
            looked=f"It lies in the table raw/{label.source.name}.",
            todo="Name every class in Label(classes=…), or mend the source's read function."
            if label.classes
            else "Make it boolean, or 0 and 1, in the source's read function.",
        )
    return frame


def _outcome(label: Label) -> pl.Expr:
    """The label as Int8; null for a class that is not among the label's."""
    if not label.classes:
        return pl.col(label.column).cast(pl.Int8)
    codes = {name: code for code, name in enumerate(label.classes)}
    return pl.col(label.column).cast(pl.String).replace_strict(codes, default=None, return_dtype=pl.Int8)


def historical_features(use_case: UseCase, settings: Settings, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` in their order with one column per feature of the FeatureService, as of each row's `event_time` (UTC).

    `rows` have the join keys and the request's inputs. Absent and expired values are null. A column of `rows` that has
    a feature's name is replaced. Without a feature store the features are columns of `rows` already. Raises
    `FeatureError` when a column or a feature table is missing.
    """
    return _joined(use_case, settings, rows)[0]


def _joined(use_case: UseCase, settings: Settings, rows: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows with their features, and the features' names."""
    if use_case.feature_repo is None:
        _check_columns(use_case, rows, use_case.request_features)
        return rows, use_case.request_features
    store = open_store(use_case, settings)
    plan = read_plan(use_case, store)
    needed = [*plan.row_types, EVENT_TIME]
    _check_columns(use_case, rows, needed)
    entities = rows.select(needed).to_pandas(use_pyarrow_extension_array=True)
    job = store.get_historical_features(entities, store.get_feature_service(plan.service))
    joined = with_on_demand(plan, use_case, job.to_polars().select(pl.exclude(EVENT_TIME)))
    features = joined.select(plan.features).get_columns()
    return rows.drop(plan.features, strict=False).with_columns(features), plan.features


def _check_columns(use_case: UseCase, rows: pl.DataFrame, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise FeatureError(
            f"The rows to join features to lack the column {', '.join(missing)}.",
            looked=f"They have {', '.join(rows.columns)}.",
            todo=f"Let the population's source {use_case.population.source.name!r} return it.",
        )


def training_set(
    use_case: UseCase, settings: Settings, lake: Lake, *, since: datetime, until: datetime, as_of: datetime
) -> TrainingSet:
    """The population's rows with a moment of prediction in [since, until), their features, and their labels at `as_of`.

    Raises `NoDataError` when there is not one labelled row.
    """
    versions = {name: lake.version(name) for name in _tables(use_case, settings, lake) if lake.exists(name)}
    labelled, unlabelled = training_rows(use_case, lake, since=since, until=until, as_of=as_of)
    frame, features = _joined(use_case, settings, labelled)
    return TrainingSet(frame, features, versions, unlabelled)


def training_rows(
    use_case: UseCase, lake: Lake, *, since: datetime, until: datetime, as_of: datetime
) -> tuple[pl.DataFrame, int]:
    """A training set's rows without their features, and how many rows of the population have no label at `as_of`.

    A label comes from its source or was posted; which of them holds says the use case (`Label.holds`).
    Raises `NoDataError` as `training_set` does.
    """
    population = population_rows(use_case, lake, since=since, until=until, as_of=as_of)
    keyed = population.with_columns(row_keys(use_case.population.source.key, population.schema))
    own = labels(use_case, lake, as_of=as_of)
    known = (own, *standing(use_case.label, own, posted(use_case.label, lake, as_of=as_of)))
    labelled = attach(keyed, known).frame.drop_nulls(LABEL).drop(ROW_KEY)
    if labelled.is_empty():
        raise NoDataError(
            f"There is no labelled row of {use_case.name!r} to learn from.",
            looked=f"{population.height:,} rows are predicted from {since:%Y-%m-%d} to {until:%Y-%m-%d}; "
            f"by {as_of:%Y-%m-%d %H:%M} UTC none of them has a label.",
            todo="Ingest more, or train as of a later moment: millrace train NAME --as-of …",
        )
    return labelled, population.height - labelled.height


def _tables(use_case: UseCase, settings: Settings, lake: Lake) -> list[str]:
    """Every table of the lake that a training set may read."""
    raw = [f"raw/{source.name}" for source in use_case.sources]
    built = [table_name(table) for table in use_case.feature_tables]
    views = read_catalog(use_case, settings) if use_case.feature_repo else []
    outcomes = [OUTCOMES, PREDICTIONS] if lake.exists(OUTCOMES) else []
    return raw + built + [pushed_table(view.name) for view in views] + outcomes


def _known(use_case: UseCase, lake: Lake, source: str, as_of: datetime) -> pl.LazyFrame:
    table = f"raw/{source}"
    if not lake.exists(table):
        raise NoDataError(
            f"Nothing of the source {source!r} of {use_case.name!r} has been ingested.",
            looked=f"The lake {lake.root} holds {', '.join(lake.tables()) or 'no table'}.",
            todo="Ingest first: millrace ingest NAME --as-of …",
        )
    return lake.scan(table).filter(pl.col(KNOWN_AT) <= as_of)
