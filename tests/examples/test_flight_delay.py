"""The flight example as a use case: its models export as they are, its features are the same through the platform."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from features.plan import read_plan
from features.repo import apply, open_store
from features.tables import build_tables
from features.training_set import training_set
from millrace import ModelInput, UseCase
from millrace.inputs import InputSpec
from millrace.lake import open_lake
from millrace.settings import Settings
from pipelines.ingest import ingest_source
from training.export import export
from training.fit import fit

ROOT = Path(__file__).resolve().parents[2]


def test_a_reader_takes_it_in_within_five_minutes() -> None:
    files = (ROOT / "examples" / "flight_delay").glob("*.py")
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 300


def test_it_has_a_plain_baseline_and_two_candidates(flight_delay: UseCase) -> None:
    assert [candidate.name for candidate in flight_delay.all_candidates] == ["logistic", "hist_gbm", "embedding_net"]


def test_it_is_asked_two_hours_before_departure(flight_delay: UseCase) -> None:
    assert flight_delay.population.lead == timedelta(hours=2)


@pytest.fixture(scope="module")
def rows() -> tuple[list[InputSpec], np.ndarray, np.ndarray]:
    """Rows of three numbers, of which one is often missing and one always, and two categories."""
    random = np.random.default_rng(0)
    specs = [
        InputSpec("delay", "numeric", low=-3.0, high=3.0),
        InputSpec("wind", "numeric", low=-3.0, high=3.0),
        InputSpec("carrier_code", "categorical", ("AA", "B6", "UA")),
        InputSpec("dest_code", "categorical", ("ATL", "LAX")),
    ]
    X = np.column_stack([random.normal(size=(3000, 2)), random.integers(0, 4, 3000), random.integers(0, 3, 3000)])
    chance = 1 / (1 + np.exp(-1.5 * X[:, 0] + (X[:, 2] == 1)))
    X[random.random(3000) < 0.3, 1] = np.nan
    return specs, X.astype(np.float32), (random.random(3000) < chance).astype(np.int8)


@pytest.mark.parametrize("place", range(3))
def test_a_model_is_served_from_onnx_and_has_learned(
    place: int, flight_delay: UseCase, rows: tuple[list[InputSpec], np.ndarray, np.ndarray]
) -> None:
    specs, X, y = rows
    inputs = [ModelInput(spec.name, spec.kind, spec.categories) for spec in specs]
    candidate = flight_delay.all_candidates[place]
    model = fit(candidate, inputs, X, y).model
    exported = export(candidate.name, model, specs, X)
    assert (exported.kind, exported.reason) == ("onnx", "")
    high, low = exported.engine.predict(np.array([[2, 0, 0, 0], [-2, 0, 0, 0]], dtype=np.float32))
    assert high > 0.6 > 0.4 > low


@pytest.fixture(scope="module")
def place(flight_delay: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake with what was known by 5 January, built and applied."""
    settings = Settings(home=tmp_path_factory.mktemp("flights"), use_cases=ROOT / "examples")
    lake, as_of = open_lake(settings, flight_delay.name), datetime(2013, 1, 5, tzinfo=UTC)
    for source in flight_delay.sources:
        ingest_source(source, lake, settings, since=None, as_of=as_of)
    build_tables(flight_delay, lake, as_of=as_of)
    apply(flight_delay, settings)
    return settings


def test_the_service_names_what_the_model_sees(flight_delay: UseCase, place: Settings) -> None:
    plan = read_plan(flight_delay, open_store(flight_delay, place))
    assert {"carrier_late_1d", "route_delay", "origin_delay_4h", "dest_late_1d", "weather_visib"} < set(plan.features)
    assert "aircraft_left" not in plan.features
    assert set(plan.request_inputs) == {"departs", "block_minutes"}
    assert set(flight_delay.slices) <= set(plan.join_keys)


def test_training_rows_have_the_features_of_their_own_instant(
    flight_delay: UseCase,
    place: Settings,
    features_at: Callable[..., pl.DataFrame],
    module: Callable[[str], ModuleType],
) -> None:
    lake, as_of = open_lake(place, flight_delay.name), datetime(2013, 1, 5, tzinfo=UTC)
    found = training_set(flight_delay, place, lake, since=as_of - timedelta(days=1), until=as_of, as_of=as_of)
    sources = {source.name: source.read(datetime(1970, 1, 1, tzinfo=UTC), as_of) for source in flight_delay.sources}
    expected = features_at(sources, found.frame.select("flight_id", *found_keys(flight_delay), asked="event_time"))
    for name in found.features:
        if name in expected.columns:
            assert found.frame[name].cast(pl.Float64).equals(expected[name].cast(pl.Float64)), name


def found_keys(use_case: UseCase) -> list[str]:
    return sorted({key for table in use_case.feature_tables for key in table.entity})


def test_flights_without_a_label_are_counted_not_trained_on(flight_delay: UseCase, place: Settings) -> None:
    lake, as_of = open_lake(place, flight_delay.name), datetime(2013, 1, 5, tzinfo=UTC)
    noon = datetime(2013, 1, 4, 12, tzinfo=UTC)
    found = training_set(flight_delay, place, lake, since=datetime(2013, 1, 1, tzinfo=UTC), until=noon, as_of=as_of)
    scheduled = lake.scan("raw/schedule").filter(pl.col("event_time") - timedelta(hours=2) < noon).collect()
    assert found.unlabelled == scheduled.height - found.frame.height > 0
    assert found.frame["label"].null_count() == 0
