"""The synthetic online store that `benchmarks.features` measures, and its peers: Feast on Feast's own stores.

Four views, 18 features, 200,000 feature rows a view, 90 days, made from a seed; a row is known five minutes after its
event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from millrace import Candidate, FeatureTable, Label, Population, Source, UseCase
from millrace.lake import Lake, open_lake
from millrace.settings import Settings

START = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = 90
END = START + timedelta(days=DAYS)
VIEWS = {"by_a": (("a",), 5), "by_b": (("b",), 5), "by_both": (("a", "b"), 4), "more_by_a": (("a",), 4)}
FEATURE_ROWS = 200_000
ENTITIES = 1_000
TTL = timedelta(days=7)
PEER_REDIS = "127.0.0.1:6379,db=15"
"""Where Feast's own Redis store writes; Feast's keys have no prefix, so it gets a database of its own."""


@dataclass(frozen=True)
class Bench:
    """The synthetic use case on disk."""

    use_case: UseCase
    settings: Settings
    lake: Lake
    random: np.random.Generator


def times(random: np.random.Generator, count: int) -> pl.Series:
    """Random instants of the ninety days."""
    offsets = pl.Series(random.integers(0, DAYS * 86400 * 1_000_000, count))
    return (offsets + int(START.timestamp()) * 1_000_000).cast(pl.Datetime("us", "UTC"))


def keys(random: np.random.Generator, count: int, entities: int) -> pl.Series:
    """Random keys `E0`, `E1`, …"""
    return pl.Series([f"E{number}" for number in range(entities)]).gather(random.integers(0, entities, count))


def feature_table(random: np.random.Generator, name: str, count: int, entities: int) -> pl.DataFrame:
    """One view's rows in the order in which a build writes them; each is known five minutes after its event."""
    on, features = VIEWS[name]
    columns = {key: keys(random, count, entities if len(on) == 1 else 30) for key in on}
    values = {f"{name}_{n}": random.random(count) for n in range(features)}
    frame = pl.DataFrame({**columns, "event_time": times(random, count)} | values)
    return frame.with_columns(known_at=pl.col("event_time") + timedelta(minutes=5)).sort("known_at")


def feature_objects(source_of: Callable[[str], Any]) -> list[Any]:
    """The Feast entities, views and service; `source_of` gives a view's data source."""
    from feast import Entity, FeatureService, FeatureView, Field, ValueType
    from feast.types import Float64, String

    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in "ab"}
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in on],
            ttl=TTL,
            schema=[Field(name=key, dtype=String) for key in on]
            + [Field(name=f"{name}_{n}", dtype=Float64) for n in range(count)],
            source=source_of(name),
        )
        for name, (on, count) in VIEWS.items()
    ]
    return [*entities.values(), *views, FeatureService(name="bench", features=views)]


def set_up(home: Path) -> Bench:
    """Write the feature tables and apply the Feast objects."""
    from features.repo import apply

    source = Source("none", lambda since, until: pl.DataFrame(), lambda: None, key=("a",))
    tables = {name: FeatureTable(name, lambda rows: rows["none"], (source,), on) for name, (on, _) in VIEWS.items()}
    use_case = UseCase(
        name="bench",
        question="How fast?",
        sources=(source,),
        population=Population(source),
        label=Label(source, "label", timedelta(0)),
        feature_tables=tuple(tables.values()),
        feature_repo=lambda source_of: feature_objects(lambda name: source_of(tables[name])),
        candidates=(Candidate("none", lambda inputs: None),),
    )
    settings, random = Settings(home=home), np.random.default_rng(0)
    lake = open_lake(settings, use_case.name)
    for name in VIEWS:
        lake.append(f"features/{name}", feature_table(random, name, FEATURE_ROWS, ENTITIES))
    apply(use_case, settings)
    return Bench(use_case, settings, lake, random)


def feast_online(bench: Bench, online_store: dict[str, Any]) -> Any:
    """Feast's SDK on one of Feast's own online stores, over our offline store; not materialized."""
    from feast import FeatureStore, RepoConfig

    from features.repo import feature_objects as declared

    folder = bench.settings.folder(f"feast_{online_store['type']}")
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={"type": "features.offline_store.PolarsOfflineStore"},
        online_store=online_store,
        entity_key_serialization_version=3,
        materialization_config={"pull_latest_features": True},
    )
    store = FeatureStore(config=config)
    store.apply(list(declared(bench.use_case, bench.settings)))
    return store


def feast_sqlite(bench: Bench) -> Any:
    """Feast on its own SQLite store."""
    return feast_online(bench, {"type": "sqlite", "path": str(bench.settings.folder("feast_sqlite") / "online.db")})


def feast_redis(bench: Bench) -> Any:
    """Feast on its own Redis store."""
    return feast_online(bench, {"type": "redis", "connection_string": PEER_REDIS})
