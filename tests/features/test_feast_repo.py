"""Feast's own tools on the repository that we write: command line, SDK and UI find what they know, and change nothing.

Each process of Feast's command line imports for seconds, so all of its commands share one.
"""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import polars as pl
import pytest
import yaml

from features.feast_repo import CONFIG, OBJECTS, definitions, write_repo
from features.online import open_reader
from features.plan import read_plan
from features.repo import apply
from features.store import open_store
from features.tables import build_tables
from features.training_set import historical_features, training_set
from millrace.lake import open_lake
from millrace.loader import load_use_case
from millrace.settings import Settings
from millrace.usecase import UseCase
from pipelines.ingest import ingest_source

FOLDER = Path(__file__).parents[1] / "pipelines" / "cases" / "taxi"
END = datetime(2024, 1, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("taxi"))


@pytest.fixture(scope="module")
def use_case(settings: Settings) -> UseCase:
    return load_use_case(str(FOLDER), settings)


@pytest.fixture(scope="module")
def repo(use_case: UseCase, settings: Settings) -> Path:
    """The repository of a use case that was ingested and built."""
    lake = open_lake(settings, use_case.name)
    for source in use_case.sources:
        ingest_source(source, lake, settings, since=None, as_of=END)
    build_tables(use_case, lake, as_of=END)
    return write_repo(use_case, FOLDER, settings)


@dataclass(frozen=True)
class Tools:
    """What Feast's command line printed, and the address of its UI."""

    told: str
    ui: str


@pytest.fixture(scope="module")
def tools(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    """Feast's command line at work: some commands one after another, then its UI for as long as the tests run."""
    start, end = (f"{at:%Y-%m-%dT%H:%M:%S}" for at in (END - timedelta(days=2), END))
    port = free_port()
    commands = [
        "feature-views list",
        "plan",
        "apply",
        "plan",
        f"materialize {start} {end} --views recent",
        f"materialize-incremental {end}",
        f"ui --host 127.0.0.1 --port {port}",
    ]
    code = "import sys; from feast.cli.cli import cli; [cli(c.split(), standalone_mode=False) for c in sys.argv[1:]]"
    lines = [f"-c {repo} {command}" for command in commands]
    log = tmp_path_factory.mktemp("feast") / "log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-u", "-c", code, *lines], stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        while not answers(address):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield Tools(log.read_text(), address)
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/projects-list.json", timeout=5).is_success
    except httpx.TransportError:
        return False


def test_the_configuration_names_our_plugins_and_is_its_owners_alone(repo: Path) -> None:
    config = yaml.safe_load((repo / CONFIG).read_text())
    assert config["project"] == "taxi"
    assert config["offline_store"]["type"] == "features.offline_store.PolarsOfflineStore"
    assert config["online_store"]["type"] == "features.feast_online.PackedSqliteOnlineStore"
    assert stat.S_IMODE((repo / CONFIG).stat().st_mode) == 0o600


def test_writing_it_again_changes_nothing(repo: Path, use_case: UseCase, settings: Settings) -> None:
    before = {name: (repo / name).read_bytes() for name in (CONFIG, OBJECTS, "registry.db")}
    assert write_repo(use_case, FOLDER, settings) == repo
    assert {name: (repo / name).read_bytes() for name in before} == before


def test_the_definitions_are_the_use_cases_objects_under_names_of_their_own(settings: Settings) -> None:
    found = definitions(str(FOLDER), lake=settings.lake)
    assert list(found) == [
        "entity_zone",
        "feature_view_recent",
        "on_demand_feature_view_trip_facts",
        "feature_service_taxi",
    ]


def test_feasts_command_line_lists_the_views(tools: Tools) -> None:
    assert "FeatureView" in tools.told
    assert "OnDemandFeatureView" in tools.told


def test_applying_with_feast_changes_nothing(tools: Tools, use_case: UseCase, settings: Settings) -> None:
    assert tools.told.count("No changes to registry") == 2
    assert tools.told.count("No changes to infrastructure") == 2
    assert not apply(use_case, settings)


def test_what_feasts_command_line_materializes_our_reader_reads(
    tools: Tools, use_case: UseCase, settings: Settings
) -> None:
    reader = open_reader(read_plan(use_case, open_store(use_case, settings)), use_case, settings)
    found = reader.read([{"zone": "Z1", "hour": 5}], at=END)
    reader.close()
    offline = historical_features(use_case, settings, pl.DataFrame([{"zone": "Z1", "hour": 5, "event_time": END}]))
    assert found.missing == [()]
    assert found.values == [list(offline.select(reader.plan.features).row(0))]


def test_a_training_set_is_built_by_the_plain_sdk(repo: Path, use_case: UseCase, settings: Settings) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    made = training_set(
        use_case, settings, open_lake(settings, "taxi"), since=END - timedelta(days=3), until=END, as_of=END
    )
    rows = made.frame.select("zone", "hour", event_timestamp="event_time").to_pandas()
    job = store.get_historical_features(rows, store.get_feature_service("taxi"))
    found = pl.from_pandas(job.to_df()).select(made.features)
    assert found.height > 100
    assert found.equals(made.frame.select(made.features))


def test_the_plain_sdk_writes_and_reads_online(repo: Path) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    at = datetime.now(UTC)
    row: dict[str, Any] = {"zone": "Z9", "zone_late": 0.25, "zone_trips": 3.0, "event_time": at, "known_at": at}
    store.write_to_online_store("recent", pd.DataFrame([row]))
    asked = [{"zone": "Z9", "hour": 7}]
    found = store.get_online_features(store.get_feature_service("taxi"), asked).to_dict()
    assert (found["zone_late"], found["zone_trips"], found["hour_of_day"]) == ([0.25], [3.0], [7])


def test_feasts_ui_shows_the_project(tools: Tools) -> None:
    page = httpx.get(tools.ui, timeout=30)
    assert page.status_code == 200
    assert "<html" in page.text
    projects = httpx.get(f"{tools.ui}/projects-list.json").json()["projects"]
    assert [project["id"] for project in projects] == ["taxi"]
    found = httpx.get(f"{tools.ui}/api/v1/feature_views", params={"project": "taxi"}, timeout=30).json()
    assert {view["spec"]["name"] for view in found["featureViews"]} >= {"recent"}
