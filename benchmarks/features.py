"""Features: point-in-time joins, online reads, materialization and ingest, each beside its peer in the same run.

The peers: bare polars `join_asof`s of the same tables, Feast's own duckdb offline store, and Feast's own SQLite and
Redis online stores, all through Feast's SDK. `--quick` leaves out the duckdb store (minutes, and 8 GB at 300,000 rows).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from benchmarks import flight_bench
from benchmarks.feature_bench import (
    END,
    TTL,
    VIEWS,
    Bench,
    feast_redis,
    feast_sqlite,
    feature_table,
    keys,
    set_up,
    times,
)
from benchmarks.figures import Figure, report, seconds, typical
from benchmarks.flight_bench import Flights, bare_join, differences, duckdb_join
from millrace import Source
from millrace.lake import Lake
from millrace.settings import Settings, quiet_vendors

DUCKDB_FACTORS = {50_000: 20.0, 300_000: 80.0}
"""How many times faster than Feast's duckdb store a join of so many rows must be."""


def joins(flights: Flights, count: int, *, quick: bool) -> list[Figure]:
    """Ours through Feast's get_historical_features against bare as-of joins of the same tables, and Feast's duckdb."""
    from features.training_set import historical_features

    rows = flights.rows(count)
    ours = typical(lambda: historical_features(flights.use_case, flights.settings, rows), repeat=5)
    peer = typical(lambda: bare_join(flights, rows), repeat=5)
    figures = [
        Figure(f"join {count:,} flights × 4 views through Feast's SDK (peer: bare polars)", ours, "s", peer=peer),
        Figure(f"  … as a multiple of the bare join, {count:,} rows", ours / peer, "×", 3),
        Figure(f"  … peak memory of this process, {count:,} rows", peak_memory(), "GB", 2),
    ]
    if quick:
        return figures
    took, peak, answer = duckdb_join(flights, rows)
    different = differences(historical_features(flights.use_case, flights.settings, rows), answer)
    factor = DUCKDB_FACTORS.get(count)
    return [
        *figures,
        Figure(f"join {count:,} flights × 4 views (peer: Feast's duckdb store)", ours, "s", peer=took),
        Figure(f"  … times faster than Feast's duckdb store, {count:,} rows", took / ours, "×", factor, ">="),
        Figure(f"  … values that differ from its answer, {count:,} rows", different, "values", 0),
        Figure("  … peak memory (peer: Feast's duckdb store)", peak_memory(), "GB", peer=peak),
    ]


def peak_memory() -> float:
    """The most memory that this process has had so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def entity_rows(count: int) -> list[dict[str, Any]]:
    """Rows to read online."""
    return [{"a": f"E{n}", "b": f"E{n % 30}"} for n in range(count)]


def online(bench: Bench) -> list[Figure]:
    """Reads of 1 and 100 rows: our reader, Feast's SDK on its own SQLite store, and Feast's SDK on ours."""
    from features.materialize import materialize
    from features.online import open_reader
    from features.plan import read_plan
    from features.repo import open_store

    materialize(bench.use_case, bench.settings, as_of=END)
    store = open_store(bench.use_case, bench.settings, at=END)
    reader = open_reader(read_plan(bench.use_case, store), bench.use_case, bench.settings)
    theirs = feast_sqlite(bench)
    theirs.materialize(END - TTL, END)
    service = store.get_feature_service("bench")
    figures = []
    for count, repeat, limit, factor in ((1, 3000, 0.1, 9.0), (100, 300, 1.0, None)):
        rows = entity_rows(count)
        took = seconds(lambda rows=rows: reader.read(rows, at=END), repeat=repeat)
        peer = typical(lambda rows=rows: theirs.get_online_features(service, rows).to_dict(), repeat=repeat // 10) * 1e3
        plain = typical(lambda rows=rows: store.get_online_features(service, rows).to_dict(), repeat=repeat // 10) * 1e3
        p50, p99 = (took[int(len(took) * share)] * 1e3 for share in (0.5, 0.99))
        what = f"online read, {count} row(s) × 18 features"
        figures += [
            Figure(f"{what}, p50 (peer: Feast's SQLite)", p50, "ms", limit, peer=peer),
            Figure(f"  … p99, {count} row(s)", p99, "ms"),
            Figure(f"  … times faster than Feast's own, {count} row(s)", peer / p50, "×", factor, ">="),
            Figure(f"  … Feast's SDK on our store, {count} row(s)", plain, "ms", peer=peer),
        ]
    return figures


def online_redis(bench: Bench) -> list[Figure]:
    """Reads of 1 and 100 rows from Redis: our reader against a bare MGET and decode of the same values."""
    from features.materialize import materialize
    from features.online import open_reader
    from features.plan import read_plan
    from features.store import open_store

    remote = on_redis(bench.settings)
    materialize(bench.use_case, remote, as_of=END)
    plan = read_plan(bench.use_case, open_store(bench.use_case, bench.settings))
    reader = open_reader(plan, bench.use_case, remote)
    theirs = feast_redis(bench)
    theirs.materialize(END - TTL, END)
    service = theirs.get_feature_service("bench")
    figures = []
    for count, repeat in ((1, 500), (100, 100)):
        rows = entity_rows(count)
        bare, read = raw_packed_read(bench, rows), lambda rows=rows: reader.read(rows, at=END)
        # In turns: the machine's speed changes within a second by more than what is measured here.
        turns = [(typical(bare, repeat=repeat), typical(read, repeat=repeat)) for _ in range(7)]
        floor, ours = (median(times) * 1e3 for times in zip(*turns, strict=True))
        peer = typical(lambda rows=rows: theirs.get_online_features(service, rows).to_dict(), repeat=repeat // 10) * 1e3
        what = f"Redis read, {count} row(s) × 18 features"
        figures += [
            Figure(f"{what}, p50 (peer: bare MGET and decode)", ours, "ms", peer=floor),
            Figure(f"  … as a multiple of the bare read, {count} row(s)", ours / floor, "×", 2),
            Figure(f"  … times faster than Feast's own Redis store, {count} row(s)", peer / ours, "×"),
        ]
    theirs.teardown()
    forget(bench, remote)
    return figures


def raw_packed_read(bench: Bench, rows: Sequence[dict[str, Any]]) -> Callable[[], Any]:
    """One MGET of the rows' packed values and their decoding, with nothing around it."""
    from redis import Redis

    from features.online_store import entity_key, prefix, unpack
    from features.store import online_namespace, open_store
    from features.views import view_layout

    remote = on_redis(bench.settings)
    first = online_namespace(bench.use_case, remote).encode() + b":"
    views = open_store(bench.use_case, bench.settings).list_feature_views()
    wanted = [
        first + entity_key(prefix(view_layout(view)), [row[key] for key in VIEWS[view.name][0]])
        for row in rows
        for view in views
    ]
    client = Redis.from_url(remote.redis_url)
    return lambda: [None if value is None else unpack(value[16:]) for value in client.mget(wanted)]


def on_redis(settings: Settings) -> Settings:
    """These settings with the online store in Redis, below a prefix of the benchmark's own."""
    return settings.model_copy(update={"online_store": "redis", "redis_prefix": "millrace-bench"})


def forget(bench: Bench, settings: Settings) -> None:
    """Empty the online store."""
    from features.store import open_rows

    rows = open_rows(bench.use_case, settings)
    for view in VIEWS:
        rows.drop(view)
    rows.close()


def materializing(bench: Bench, *, redis: bool, entities: int = 20_000) -> list[Figure]:
    """Values a second into SQLite and into Redis, ours and Feast's own stores."""
    from features.materialize import materialize

    for name in VIEWS:
        rows = feature_table(bench.random, name, 5 * entities, entities)
        recent = pl.col("event_time", "known_at").dt.epoch("us") // 18 + int(END.timestamp()) * 17_000_000 // 18
        bench.lake.replace(f"features/{name}", rows.with_columns(recent.cast(pl.Datetime("us", "UTC"))))
    written = {"values": 0}

    def ours(settings: Settings) -> float:
        done = materialize(bench.use_case, settings, as_of=END + timedelta(days=1))
        written["values"] = sum(view.entities * VIEWS[view.view][1] for view in done)
        return written["values"]

    def rate(settings: Settings) -> float:
        return best(lambda: ours(settings), before=lambda: forget(bench, settings))

    def feasts(store: Any) -> float:
        def once() -> float:
            store.materialize(END - TTL, END + timedelta(days=1))
            return written["values"]

        return best(once, before=lambda: None, repeat=1)

    sqlite, peer = rate(bench.settings), feasts(feast_sqlite(bench))
    figures = [Figure("materialize into SQLite (peer: Feast's own)", sqlite, "values/s", 500_000, ">=", peer)]
    if redis:
        mine, theirs = rate(on_redis(bench.settings)), feast_redis(bench)
        peer = feasts(theirs)
        theirs.teardown()
        forget(bench, on_redis(bench.settings))
        figures += [
            Figure("materialize into Redis (peer: Feast's own)", mine, "values/s", peer=peer),
            Figure("  … times faster than Feast's own", mine / peer, "×", 3, ">="),
        ]
    return figures


def best(work: Callable[[], float], *, before: Callable[[], None], repeat: int = 3) -> float:
    """The highest of some runs' values a second."""
    rates = []
    for _ in range(repeat):
        before()
        began = time.perf_counter()
        values = work()
        rates.append(values / (time.perf_counter() - began))
    return max(rates)


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


def redis_answers(url: str) -> bool:
    """Whether there is a Redis to measure."""
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        return bool(Redis.from_url(url).ping())
    except RedisError:
        return False


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[50_000, 300_000], help="flights to join features to")
    parser.add_argument("--quick", action="store_true", help="without Feast's duckdb store")
    given = parser.parse_args()
    quiet_vendors()
    with tempfile.TemporaryDirectory() as home:
        flights = flight_bench.set_up(Path(home, "flights"))
        figures = [figure for size in given.rows for figure in joins(flights, size, quick=given.quick)]
        bench = set_up(Path(home, "bench"))
        redis = redis_answers(bench.settings.redis_url)
        figures += online(bench) + (online_redis(bench) if redis else [])
        figures += materializing(bench, redis=redis) + ingesting(Path(home))
    report("features", figures)


if __name__ == "__main__":
    main()
