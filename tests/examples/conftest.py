"""The flight example as the platform loads it, and a stretch of its real rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from features.asof import FeatureRows, join_asof
from millrace import UseCase
from millrace.loader import load_use_case
from millrace.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
BEGINNING, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def flight_delay() -> UseCase:
    """The example's declaration."""
    return load_use_case("flight_delay", Settings(use_cases=ROOT / "examples"))


@pytest.fixture(scope="session")
def module(flight_delay: UseCase) -> Callable[[str], ModuleType]:
    """A module of the example by its name."""
    return lambda name: importlib.import_module(f"millrace_use_case_{flight_delay.name}.{name}")


@pytest.fixture(scope="session")
def year(flight_delay: UseCase) -> dict[str, pl.DataFrame]:
    """Every row of every source."""
    return {source.name: source.read(BEGINNING, END) for source in flight_delay.sources}


@pytest.fixture(scope="session")
def stretch(year: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """What happened in eleven days around the change to summer time of 10 March 2013, and the planes."""
    first, last = datetime(2013, 3, 3, tzinfo=UTC), datetime(2013, 3, 14, tzinfo=UTC)
    within = pl.col("event_time").is_between(first, last)
    return {name: rows.filter(within | pl.lit(name == "planes")) for name, rows in year.items()}


@pytest.fixture(scope="session")
def features_at(module: Callable[[str], ModuleType]) -> Callable[..., pl.DataFrame]:
    """`features_at(sources, rows, views)`: the features of each row of `rows` at its instant `asked`, through the
    platform's own point-in-time join."""

    def read(
        sources: Mapping[str, pl.DataFrame], rows: pl.DataFrame, views: Mapping[Any, Any] | None = None
    ) -> pl.DataFrame:
        tables = {name: frame.lazy() for name, frame in sources.items()}
        hour = module("features").HOUR
        parts = []
        for table, (hours, _) in (views or module("features").VIEWS).items():
            built = table.build(tables)
            names = [name for name in built.collect_schema() if name not in (*table.entity, "event_time", "known_at")]
            keys, columns = {key: key for key in table.entity}, {name: name for name in names}
            parts.append(FeatureRows(built, keys, columns, "event_time", "known_at", hours * hour or None))
        return join_asof(rows, "asked", parts)

    return read
