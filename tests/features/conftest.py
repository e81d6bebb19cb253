"""Places of the tiny use case in `cases/returns.py`: an empty one a test, and a built one for all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "cases"))

from returns import DAY, START, Place, use_case

from features.repo import apply
from features.tables import build_tables
from millrace.lake import open_lake
from millrace.settings import Settings


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty place."""
    settings = Settings(home=tmp_path)
    return Place(use_case, settings, open_lake(settings, use_case.name))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with nine days ingested, built and applied; tests read it only."""
    settings = Settings(home=tmp_path_factory.mktemp("built"))
    place = Place(use_case, settings, open_lake(settings, use_case.name))
    place.ingest(START + 9 * DAY)
    build_tables(use_case, place.lake, as_of=START + 9 * DAY)
    apply(use_case, settings)
    return place
