"""Feast's own `get_historical_features` on our offline store against a join written out in plain Python.

A thousand small worlds, a hundred a round: several views with keys of different types, rows that become known late,
early or again, ties to the microsecond, nulls, renamed columns, a view joined under another name, an on-demand view.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import getsource
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental:RuntimeWarning")

INSTANT = pl.Datetime("us", "UTC")
START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR, TICK = timedelta(hours=1), timedelta(microseconds=1)
ROUNDS, WORLDS = 10, 100
ANSWERS = ("recent__x", "ever__x", "pair__y", "plain__z", "other__x", "sums__total")


@dataclass(frozen=True)
class Row:
    """One feature row: its keys, when it happened, when it became known, and its value."""

    keys: tuple[Any, ...]
    event: datetime
    known: datetime
    value: int | None


@dataclass(frozen=True)
class Question:
    """One row of the entity frame."""

    a: str | None
    b: int | None
    c: str | None
    amount: int
    at: datetime | None


@dataclass(frozen=True)
class World:
    """What one case consists of: the rows of each source and the questions asked of them."""

    recent: list[Row]
    ever: list[Row]
    pair: list[Row]
    plain: list[Row]
    questions: list[Question]


TTL = {"recent": 6 * HOUR, "ever": None, "pair": 3 * HOUR, "plain": HOUR}


def sums(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    pairs = zip(inputs["x"], inputs["amount"], strict=True)
    return {"total": [None if x is None else x + amount for x, amount in pairs]}


def make_world(chance: random.Random, number: int) -> World:
    """A world whose keys no other has; its times lie on whole hours, a microsecond before, or one after."""
    names, numbers = [f"w{number}a", f"w{number}b", None], [2 * number, 2 * number + 1, None]

    def moment() -> datetime:
        return START + chance.randint(0, 12) * HOUR + chance.choice([-1, 0, 0, 0, 1]) * TICK

    def rows(make: Callable[[], tuple[Any, ...]], created: bool = True) -> list[Row]:
        found = []
        for _ in range(chance.randint(0, 8)):
            event = moment()
            known = event + chance.choice([0, 0, 1, 5, -2]) * HOUR if created else event
            value = chance.choice([None, *range(1000)]) if chance.random() > 0.05 else None
            found.append(Row(make(), event, known, value))
        return found + [Row(row.keys, row.event, row.known, chance.randint(0, 1000)) for row in found[:1]]

    def question() -> Question:
        at = None if chance.random() < 0.05 else moment() + chance.choice([0, 0, 1, 3, 6]) * HOUR
        return Question(chance.choice(names), chance.choice(numbers), chance.choice(names), chance.randint(0, 9), at)

    return World(
        recent=rows(lambda: (chance.choice(names),)),
        ever=rows(lambda: (chance.choice(names),)),
        pair=rows(lambda: (chance.choice(names), chance.choice(numbers))),
        plain=rows(lambda: (chance.choice(numbers),), created=False),
        questions=[question() for _ in range(chance.randint(1, 5))],
    )


def expected(rows: list[Row], keys: tuple[Any, ...], at: datetime | None, ttl: timedelta | None) -> int | None:
    """The newest row that had happened and was known; of equal events the one known last, of equal both the last."""
    best: Row | None = None
    for row in rows:
        if None in keys or row.keys != keys or at is None or row.event > at or row.known > at:
            continue
        if best is None or (row.event, row.known) >= (best.event, best.known):
            best = row
    if best is None or at is None or (ttl is not None and best.event < at - ttl):
        return None
    return best.value


def all_expected(world: World, asked: Question) -> dict[str, int | None]:
    recent = expected(world.recent, (asked.a,), asked.at, TTL["recent"])
    return {
        "recent__x": recent,
        "ever__x": expected(world.ever, (asked.a,), asked.at, TTL["ever"]),
        "pair__y": expected(world.pair, (asked.a, asked.b), asked.at, TTL["pair"]),
        "plain__z": expected(world.plain, (asked.b,), asked.at, TTL["plain"]),
        "other__x": expected(world.recent, (asked.c,), asked.at, TTL["recent"]),
        "sums__total": None if recent is None else recent + asked.amount,
    }


def write(path: Path, rows: list[Row], keys: dict[str, Any], names: tuple[str, str, str | None]) -> None:
    value, event, known = names
    columns: dict[str, Any] = {key: [row.keys[n] for row in rows] for n, key in enumerate(keys)}
    columns |= {value: [row.value for row in rows], event: [row.event for row in rows]}
    types = keys | {value: pl.Int64, event: INSTANT}
    if known is not None:
        columns |= {known: [row.known for row in rows]}
        types |= {known: INSTANT}
    pl.DataFrame(columns, schema=types).write_parquet(path)


def write_sources(folder: Path, worlds: list[World]) -> None:
    def all_of(name: str) -> list[Row]:
        return [row for world in worlds for row in getattr(world, name)]

    usual = ("x", "event_time", "known_at")
    write(folder / "recent.parquet", all_of("recent"), {"a": pl.String}, usual)
    write(folder / "ever.parquet", all_of("ever"), {"a": pl.String}, usual)
    theirs = {"alpha": pl.String, "beta": pl.Int64}
    write(folder / "pair.parquet", all_of("pair"), theirs, ("measured", "happened", "written"))
    write(folder / "plain.parquet", all_of("plain"), {"b": pl.Int64}, ("z", "event_time", None))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A plain Feast store on our offline store, and the folder of its sources."""
    import feast
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    folder = tmp_path_factory.mktemp("worlds")
    write_sources(folder, [])
    a = Entity(name="a", join_keys=["a"], value_type=ValueType.STRING)
    b = Entity(name="b", join_keys=["b"], value_type=ValueType.INT64)
    key = {"a": Field(name="a", dtype=String), "b": Field(name="b", dtype=Int64)}

    def view(name: str, entities: list[Any], value: str, *, known: str = "known_at", **mapping: str) -> Any:
        source = FileSource(
            name=f"{name}_rows",
            path=str(folder / f"{name}.parquet"),
            timestamp_field="event_time",
            created_timestamp_column=known,
            field_mapping=mapping,
        )
        schema = [*(key[entity.name] for entity in entities), Field(name=value, dtype=Int64)]
        ttl = TTL[name] or timedelta(0)
        return FeatureView(name=name, entities=entities, ttl=ttl, schema=schema, source=source)

    recent, ever = view("recent", [a], "x"), view("ever", [a], "x")
    renamed = {"alpha": "a", "beta": "b", "measured": "y", "happened": "event_time", "written": "known_at"}
    pair, plain = view("pair", [a, b], "y", **renamed), view("plain", [b], "z", known="")
    amount = feast.RequestSource(name="request", schema=[Field(name="amount", dtype=Int64)])
    total = feast.OnDemandFeatureView(
        name="sums",
        sources=[recent, amount],
        schema=[Field(name="total", dtype=Int64)],
        mode="python",
        udf=sums,
        udf_string=getsource(sums),
    )
    other = recent.with_name("other").with_join_key_map({"a": "c"})
    named = recent.with_name("recent")  # Feast cannot compare a service that has a view both with an alias and without
    service = feast.FeatureService(name="all", features=[named, ever, pair, plain, other, total])
    found = feast.FeatureStore(
        config=feast.RepoConfig(
            project="worlds",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": "features.offline_store.PolarsOfflineStore"},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    found.apply([a, b, recent, ever, pair, plain, total, service])
    return found, folder


def answers(store: Any, questions: list[Question]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            **{name: [getattr(asked, name) for asked in questions] for name in ("a", "b", "c", "amount")},
            "event_timestamp": [asked.at for asked in questions],
        },
        schema={"a": pl.String, "b": pl.Int64, "c": pl.String, "amount": pl.Int64, "event_timestamp": INSTANT},
    )
    job = store.get_historical_features(
        frame.to_pandas(use_pyarrow_extension_array=True), store.get_feature_service("all"), full_feature_names=True
    )
    found = pl.from_arrow(job.to_arrow())
    assert isinstance(found, pl.DataFrame)
    return found


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_equals_a_join_in_plain_python(store: tuple[Any, Path], seed: int) -> None:
    feast, folder = store
    worlds = [make_world(random.Random(seed * WORLDS + number), number) for number in range(WORLDS)]
    write_sources(folder, worlds)
    asked = [(world, question) for world in worlds for question in world.questions]
    found = answers(feast, [question for _, question in asked])
    assert found.select(ANSWERS).to_dicts() == [all_expected(*one) for one in asked]


def test_the_worlds_hold_what_they_are_meant_to_try() -> None:
    worlds = [make_world(random.Random(number), number) for number in range(ROUNDS * WORLDS)]
    found = [all_expected(world, asked) for world in worlds for asked in world.questions]
    answered = {name: sum(one[name] is not None for one in found) for name in ANSWERS}
    assert all(100 < count < len(found) for count in answered.values()), answered
    rows = [(world, row) for world in worlds for row in world.recent]
    late = [row for _, row in rows if row.known > row.event]
    ties = sum(row.event == other.event for world, row in rows for other in world.recent if other is not row)
    edges = sum(asked.at == row.event + 6 * HOUR for world, row in rows for asked in world.questions)
    assert min(len(late), ties, edges) > 100


def test_no_value_is_from_the_future(store: tuple[Any, Path]) -> None:
    feast, folder = store
    chance = random.Random(0)
    seen = [START + timedelta(minutes=chance.randint(0, 600)) for _ in range(2_000)]
    rows = []
    for at in seen:
        early = at - timedelta(minutes=chance.randint(0, 600))
        times = (early, at) if chance.random() < 0.5 else (at, early)
        rows.append(Row(("w",), *times, value=(at - START) // TICK))
    write_sources(folder, [World(rows, rows, [], [], [])])
    moments = [START + timedelta(minutes=chance.randint(-60, 700)) for _ in range(1_000)]
    found = answers(feast, [Question("w", None, "w", 0, at) for at in moments])
    for name in ("recent__x", "ever__x", "other__x"):
        values = [
            (at, START + value * TICK) for at, value in zip(moments, found[name], strict=True) if value is not None
        ]
        assert len(values) > 100
        assert all(from_ <= at for at, from_ in values)


def test_feasts_own_online_store_is_filled_from_our_offline_store(store: tuple[Any, Path]) -> None:
    feast, folder = store
    later = START + HOUR
    recent = [Row(("w",), START, START, 1), Row(("w",), later, later, 2), Row(("v",), START, later + HOUR, 3)]
    write_sources(folder, [World(recent, [], [Row(("w", 7), START, START, 5)], [Row((7,), later, later, 6)], [])])
    feast.materialize(START - HOUR, later)
    wanted = ["recent:x", "pair:y", "plain:z"]
    found = feast.get_online_features(wanted, [{"a": "w", "b": 7}, {"a": "v", "b": 8}]).to_dict()
    assert (found["x"], found["y"], found["z"]) == ([2, None], [5, None], [6, None])
