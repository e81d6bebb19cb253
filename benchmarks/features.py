"""Features: point-in-time joins, online reads, materialization and ingest, each beside its peer in the same run.

Four views, 18 features, 200,000 feature rows a view, 90 days, made from a seed. The peers: bare polars `join_asof`s of
the same tables, and Feast's own SQLite online store through its SDK. Feast's duckdb offline store is no peer here: it
needs `feast[duckdb]`, which the platform does not install.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.figures import Figure, report, seconds, typical
from millrace import Candidate, FeatureTable, Label, Population, Source, UseCase
from millrace.errors import FeatureError
from millrace.lake import Lake, open_lake
from millrace.settings import Settings, quiet_vendors

START = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = 90
END = START + timedelta(days=DAYS)
VIEWS = {"by_a": (("a",), 5), "by_b": (("b",), 5), "by_both": (("a", "b"), 4), "more_by_a": (("a",), 4)}
FEATURE_ROWS = 200_000
ENTITIES = 1_000
TTL = timedelta(days=7)


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


def set_up(home: Path) -> Bench:
    """Write the feature tables and apply the Feast objects."""
    from features.repo import apply

    source = Source("none", lambda since, until: pl.DataFrame(), lambda: None, key=("a",))
    tables = {name: FeatureTable(name, lambda rows: rows["none"], (source,), on) for name, (on, _) in VIEWS.items()}

    def feature_repo(source_of: Callable[[FeatureTable], Any]) -> list[Any]:
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
                source=source_of(tables[name]),
            )
            for name, (on, count) in VIEWS.items()
        ]
        return [*entities.values(), *views, FeatureService(name="bench", features=views)]

    use_case = UseCase(
        name="bench",
        question="How fast?",
        sources=(source,),
        population=Population(source),
        label=Label(source, "label", timedelta(0)),
        feature_tables=tuple(tables.values()),
        feature_repo=feature_repo,
        candidates=(Candidate("none", lambda inputs: None),),
    )
    settings, random = Settings(home=home), np.random.default_rng(0)
    lake = open_lake(settings, use_case.name)
    for name in VIEWS:
        lake.append(f"features/{name}", feature_table(random, name, FEATURE_ROWS, ENTITIES))
    apply(use_case, settings)
    return Bench(use_case, settings, lake, random)


def feature_table(random: np.random.Generator, name: str, count: int, entities: int) -> pl.DataFrame:
    """One view's rows; each is known five minutes after its event."""
    on, features = VIEWS[name]
    columns = {key: keys(random, count, entities if len(on) == 1 else 30) for key in on}
    values = {f"{name}_{n}": random.random(count) for n in range(features)}
    frame = pl.DataFrame({**columns, "event_time": times(random, count)} | values)
    return frame.with_columns(known_at=pl.col("event_time") + timedelta(minutes=5))


def joins(bench: Bench, count: int) -> list[Figure]:
    """Ours through Feast's get_historical_features against bare as-of joins of the same tables."""
    from features.training_set import historical_features

    rows = pl.DataFrame(
        {"event_time": times(bench.random, count)} | {k: keys(bench.random, count, ENTITIES) for k in "ab"}
    )

    def bare() -> pl.DataFrame:
        left = rows.sort("event_time")
        for name, (on, _) in VIEWS.items():
            right = bench.lake.scan(f"features/{name}").drop("event_time").sort("known_at").collect()
            left = left.join_asof(
                right, left_on="event_time", right_on="known_at", by=on, check_sortedness=False, tolerance=TTL
            ).drop("known_at")
        return left

    ours = typical(lambda: historical_features(bench.use_case, bench.settings, rows), repeat=5)
    peer = typical(bare, repeat=5)
    return [
        Figure(f"join {count:,} rows × 4 views through Feast's SDK (peer: bare polars)", ours, "s", peer=peer),
        Figure(f"  … as a multiple of the bare join, {count:,} rows", ours / peer, "×", 3),
    ]


def online(bench: Bench) -> list[Figure]:
    """Reads of 1 and 100 rows: our reader, Feast's SDK on its own SQLite store, and Feast's SDK on ours."""
    from features.materialize import materialize
    from features.online import open_reader
    from features.plan import read_plan
    from features.repo import open_store

    materialize(bench.use_case, bench.settings, as_of=END)
    store = open_store(bench.use_case, bench.settings, at=END)
    reader = open_reader(read_plan(bench.use_case, store), bench.use_case, bench.settings)
    theirs = feasts_own(bench)
    service = store.get_feature_service("bench")
    figures = []
    for count, repeat, limit, factor in ((1, 3000, 0.1, 9.0), (100, 300, 1.0, None)):
        rows = [{"a": f"E{n}", "b": f"E{n % 30}"} for n in range(count)]
        took = seconds(lambda rows=rows: reader.read(rows, at=END), repeat=repeat)
        peer = typical(lambda rows=rows: theirs.get_online_features(service, rows).to_dict(), repeat=repeat // 10)
        plain = typical(lambda rows=rows: store.get_online_features(service, rows).to_dict(), repeat=repeat // 10)
        p50, p99 = took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3
        figures += [
            Figure(
                f"online read, {count} row(s) × 18 features, p50 (peer: Feast's SQLite)",
                p50,
                "ms",
                limit,
                peer=peer * 1e3,
            ),
            Figure(f"  … p99, {count} row(s)", p99, "ms"),
            Figure(f"  … times faster than Feast's own, {count} row(s)", peer * 1e3 / p50, "×", factor, ">="),
            Figure(f"  … Feast's SDK on our store, {count} row(s)", plain * 1e3, "ms", peer=peer * 1e3),
        ]
    return figures


def feasts_own(bench: Bench) -> Any:
    """Feast's store on Feast's SQLite online store, filled by Feast."""
    from feast import FeatureStore, RepoConfig

    from features.repo import feature_objects

    folder = bench.settings.folder("feasts_own")
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={"type": "features.offline_store.PolarsOfflineStore"},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        materialization_config={"pull_latest_features": True},
    )
    store = FeatureStore(config=config)
    store.apply(list(feature_objects(bench.use_case, bench.settings)))
    store.materialize(END - TTL, END)
    return store


def materializing(bench: Bench, entities: int = 20_000) -> list[Figure]:
    """Values a second into SQLite, and into Redis where one answers, against Feast's own SQLite store."""
    from features.materialize import materialize
    from features.store import open_rows

    for name in VIEWS:
        rows = feature_table(bench.random, name, 5 * entities, entities)
        recent = pl.col("event_time", "known_at").dt.epoch("us") // 18 + int(END.timestamp()) * 17_000_000 // 18
        bench.lake.replace(f"features/{name}", rows.with_columns(recent.cast(pl.Datetime("us", "UTC"))))

    def rate(settings: Settings) -> float:
        took = []
        for _ in range(3):
            rows = open_rows(bench.use_case, settings)
            for view in VIEWS:
                rows.drop(view)
            rows.close()
            with Timer() as timer:
                done = materialize(bench.use_case, settings, as_of=END + timedelta(days=1))
            values = sum(view.entities * VIEWS[view.view][1] for view in done)
            took.append(values / timer.seconds)
        return max(took)

    figures = [Figure("materialize into SQLite", rate(bench.settings), "values/s", 500_000, ">=")]
    redis = bench.settings.model_copy(update={"online_store": "redis", "redis_prefix": "millrace-bench"})
    with suppress(FeatureError):  # no Redis answers
        figures.append(Figure("materialize into Redis", rate(redis), "values/s"))
        for view in VIEWS:
            open_rows(bench.use_case, redis).drop(view)
    return figures


class Timer:
    """Seconds of a `with` block."""

    def __enter__(self) -> Timer:
        import time

        self._clock, self.seconds = time.perf_counter, 0.0
        self._started = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._clock() - self._started


def ingesting(folder: Path, count: int = 27_000) -> list[Figure]:
    """A month of flight-like rows, CSV → validated → lake."""
    import pandera.polars as pa

    from pipelines.ingest import ingest_source

    random = np.random.default_rng(1)
    numbers = {f"n{n}": pl.Series(random.integers(0, 3000, count)) for n in range(8)}
    words = {f"w{n}": keys(random, count, 300) for n in range(6)}
    instants = {f"t{n}": times(random, count) for n in range(2)}
    frame = pl.DataFrame({"id": [f"f{n}" for n in range(count)], **numbers, **words, **instants})
    frame.with_columns(event_time="t0", known_at="t0").write_csv(folder / "month.csv")
    types = frame.with_columns(event_time="t0", known_at="t0").schema

    def read(since: datetime, until: datetime) -> pl.DataFrame:
        return pl.read_csv(folder / "month.csv", schema_overrides=types)

    def schema() -> Any:
        checked = {f"n{n}": pa.Column(pl.Int64, pa.Check.in_range(0, 3000)) for n in range(8)}
        return pa.DataFrameSchema({"id": pa.Column(pl.String), **checked})

    source = Source("month", read, schema, key=("id",))
    lakes = iter(range(1000))

    def once() -> None:
        ingest_source(source, Lake(str(folder / f"lake{next(lakes)}")), Settings(home=folder), since=None, as_of=END)

    return [Figure("ingest a month (CSV → validated → lake)", count / typical(once, repeat=5), "rows/s", 200_000, ">=")]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[50_000, 300_000], help="rows to join features to")
    sizes = parser.parse_args().rows
    quiet_vendors()
    with tempfile.TemporaryDirectory() as home:
        bench = set_up(Path(home))
        figures = [figure for size in sizes for figure in joins(bench, size)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        figures.append(Figure("peak memory of the process after the joins", peak, "GB", 2))
        figures += online(bench) + materializing(bench) + ingesting(Path(home))
    report("features", figures)


if __name__ == "__main__":
    main()
