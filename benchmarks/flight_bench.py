"""The point-in-time join that `benchmarks.features` measures: real flights of 2013, 4 views, 18 features; and its peer.

The tables are four of `examples/flight_delay`, built from the whole year: 16 carriers and 3 airports every half hour,
routes at each arrival, hourly weather. Few entities with many rows each: what a store costs that joins before it looks
at the time. Run as a module it is the peer, Feast's duckdb store, in a process of its own because it takes gigabytes:
`python -m benchmarks.flight_bench FOLDER ROWS.parquet ANSWER.parquet` prints its seconds and its peak memory in GB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from millrace.lake import Lake, open_lake
from millrace.loader import load_use_case
from millrace.settings import Settings, quiet_vendors
from millrace.usecase import UseCase

END = datetime(2014, 1, 2, tzinfo=UTC)
VIEWS = {
    "carrier": ("carrier", 6, "delay_4h arrival_delay_2h late_1d gain_12h overdue"),
    "origin": ("origin", 6, "delay_4h arrival_delay_2h late_1d gain_12h overdue"),
    "route": ("origin dest", 28 * 24, "delay elapsed"),
    "weather": ("origin", 6, "dewp humid wind_dir wind_speed precip pressure"),
}
"""Of each view: its join keys, its hours to live, its features."""
FEATURES = [f"{view}_{name}" for view, (_, _, names) in VIEWS.items() for name in names.split()]


@dataclass(frozen=True)
class Flights:
    """A year of flights in a lake, with the four tables built and the views applied."""

    use_case: UseCase
    settings: Settings
    lake: Lake

    def rows(self, count: int) -> pl.DataFrame:
        """Flights drawn from the year, each two hours before its departure."""
        plan = self.lake.scan("raw/schedule").select(
            pl.col("event_time") - timedelta(hours=2), "carrier", "origin", "dest", "flight_id"
        )
        return plan.collect().sample(count, seed=0, shuffle=True)


def feature_objects(source_of: Callable[[str], Any]) -> list[Any]:
    """The Feast entities, views and service; `source_of` gives a view's data source."""
    from feast import Entity, FeatureService, FeatureView, Field, ValueType
    from feast.types import Float64, String

    names = ("carrier", "origin", "dest")
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in names}
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in keys.split()],
            ttl=timedelta(hours=hours),
            schema=[Field(name=key, dtype=String) for key in keys.split()]
            + [Field(name=f"{name}_{feature}", dtype=Float64) for feature in features.split()],
            source=source_of(name),
        )
        for name, (keys, hours, features) in VIEWS.items()
    ]
    return [*entities.values(), *views, FeatureService(name="bench", features=views)]


def set_up(home: Path) -> Flights:
    """Ingest the year, build the four tables and apply the views."""
    from features.repo import apply
    from features.tables import build_tables
    from pipelines.ingest import ingest_source

    settings = Settings(home=home)
    whole = load_use_case("flight_delay", settings)
    tables = {table.name: table for table in whole.feature_tables if table.name in VIEWS}
    use_case = replace(
        whole,
        feature_tables=tuple(tables.values()),
        feature_repo=lambda source_of: feature_objects(lambda name: source_of(tables[name])),
        on_demand=(),
    )
    lake = open_lake(settings, use_case.name)
    for source in use_case.sources:
        ingest_source(source, lake, settings, since=None, as_of=END)
    build_tables(use_case, lake, as_of=END)
    apply(use_case, settings)
    return Flights(use_case, settings, lake)


def bare_join(flights: Flights, rows: pl.DataFrame) -> pl.DataFrame:
    """The same tables joined by polars alone, one `join_asof` a view."""
    left = rows.sort("event_time")
    for name, (keys, hours, features) in VIEWS.items():
        columns = [f"{name}_{feature}" for feature in features.split()]
        right = flights.lake.scan(f"features/{name}").select(*keys.split(), "known_at", *columns)
        left = left.join_asof(
            right.sort("known_at").collect(),
            left_on="event_time",
            right_on="known_at",
            by=keys.split(),
            check_sortedness=False,
            tolerance=timedelta(hours=hours),
        ).drop("known_at")
    return left


def duckdb_join(flights: Flights, rows: pl.DataFrame) -> tuple[float, float, pl.DataFrame]:
    """Seconds, peak memory (GB) and answer of Feast's duckdb offline store on Parquet copies of the same tables."""
    folder = flights.settings.folder("feast_duckdb")
    for name in VIEWS:
        flights.lake.scan(f"features/{name}").sink_parquet(folder / f"{name}.parquet")
    rows.write_parquet(folder / "rows.parquet")
    arguments = [str(folder), str(folder / "rows.parquet"), str(folder / "answer.parquet")]
    command = [sys.executable, "-m", "benchmarks.flight_bench", *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200).stdout
    took, peak = (float(number) for number in said.split()[-2:])
    return took, peak, pl.read_parquet(folder / "answer.parquet")


def differences(ours: pl.DataFrame, theirs: pl.DataFrame) -> float:
    """How many values of two answers differ."""
    left, right = (frame.sort("flight_id").select("flight_id", *FEATURES) for frame in (ours, theirs))
    if left.height != right.height:
        return float(abs(left.height - right.height) * len(FEATURES))
    return float(sum((~left[name].eq_missing(right[name])).sum() for name in left.columns))


def main(folder: Path, rows: Path, answer: Path) -> None:
    """Join through Feast's SDK on its duckdb store, counting only rows known by each instant."""
    from feast import FeatureStore, FileSource, RepoConfig

    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    times = {"timestamp_field": "event_time", "created_timestamp_column": "known_at"}
    store.apply(feature_objects(lambda name: FileSource(name=name, path=str(folder / f"{name}.parquet"), **times)))
    entities = pl.read_parquet(rows).rename({"event_time": "event_timestamp"}).to_pandas()
    service = store.get_feature_service("bench")
    began = time.perf_counter()
    found = store.get_historical_features(entities, service, filter_by_created_timestamp=True).to_arrow()
    took = time.perf_counter() - began
    pl.from_arrow(found).write_parquet(answer)  # type: ignore[union-attr]  # a table is a frame
    print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


if __name__ == "__main__":
    quiet_vendors()
    main(*(Path(argument) for argument in sys.argv[1:]))
