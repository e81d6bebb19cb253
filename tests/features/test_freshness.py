"""How fresh the views are, as the online store itself says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from returns import DAY, START, Place

from features.freshness import Freshness, freshness, newest_events
from features.materialize import materialize
from features.store import repo_folder
from millrace import console
from millrace.errors import FeatureError
from millrace.settings import Settings

END = START + 9 * DAY


@pytest.fixture(scope="module")
def fresh(built: Place) -> Iterator[Place]:
    """The built place with its views online as of END."""
    materialize(built.use_case, built.settings, as_of=END)
    yield built
    for path in repo_folder(built.use_case, built.settings).glob("online.db*"):
        path.unlink()


def view(place: Place, name: str, *, later: timedelta = timedelta(0)) -> Freshness:
    found = freshness(place.use_case, place.settings, as_of=END + later)
    return next(one for one in found if one.view == name)


def test_a_fresh_view_has_its_newest_event_and_the_age_of_it(fresh: Place) -> None:
    found = view(fresh, "by_shop", later=timedelta(hours=6))
    newest = fresh.lake.scan("features/shops").select(pl.col("event_time").max()).collect().item()
    age = (END + timedelta(hours=6) - newest).total_seconds()
    assert (found.state, found.newest, found.age_s) == ("fresh", newest, age)
    assert (found.ttl_s, found.age_of_ttl) == (86_400, age / 86_400)


def test_entities_live_ones_and_nulls_are_counted(fresh: Place) -> None:
    found = view(fresh, "by_shop")
    assert (found.entities, found.live, found.nulls) == (3, 3, 0)
    facts = view(fresh, "facts")
    assert (facts.entities, facts.live, facts.nulls) == (4, 4, 1 / 4)


def test_a_view_of_which_all_has_expired_is_stale(fresh: Place) -> None:
    found = view(fresh, "by_shop", later=2 * DAY)
    assert (found.state, found.entities, found.live, found.nulls) == ("stale", 3, 0, None)
    assert found.age_of_ttl is not None
    assert found.age_of_ttl > 1


def test_a_view_without_a_ttl_is_never_stale(fresh: Place) -> None:
    found = view(fresh, "facts", later=10_000 * DAY)
    assert (found.state, found.ttl_s, found.age_of_ttl) == ("fresh", None, None)


def test_a_view_says_how_far_it_was_materialized_and_its_policy(fresh: Place) -> None:
    found = view(fresh, "by_pair")
    assert (found.materialized_to, found.stale) == (END, "flag")


def test_what_happened_later_is_not_seen(fresh: Place) -> None:
    found = view(fresh, "by_shop", later=-8 * DAY)
    assert (found.state, found.newest, found.age_s, found.live) == ("empty", None, None, 0)


def test_a_store_that_was_never_filled_is_empty(built: Place, tmp_path: Path) -> None:
    (tmp_path / "feast" / "returns").mkdir(parents=True)
    catalog = repo_folder(built.use_case, built.settings) / "catalog.json"
    (tmp_path / "feast" / "returns" / "catalog.json").write_bytes(catalog.read_bytes())
    settings = Settings(home=tmp_path)
    states = {one.state for one in freshness(built.use_case, settings, as_of=END)}
    assert (states, newest_events(built.use_case, settings)) == ({"empty"}, {})


def test_views_that_were_never_applied_are_an_error(built: Place, tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="have not been applied"):
        freshness(replace(built.use_case, name="other"), Settings(home=tmp_path), as_of=END)


def test_a_line_for_people_says_the_age_in_hours_against_the_ttl(fresh: Place) -> None:
    line = view(fresh, "by_shop", later=timedelta(hours=6)).as_line()
    assert (line["age_h"], line["live"], line["nulls"], line["if_stale"]) == ("6 of 24", "3 of 3", "0.0%", "flag")
    assert view(fresh, "facts", later=-60 * DAY).as_line() == {
        "view": "facts",
        "state": "empty",
        "newest": "-",
        "age_h": "-",
        "live": "0 of 4",
        "nulls": "-",
        "if_stale": "flag",
    }


def test_it_can_be_shown_as_json(fresh: Place, capsys: pytest.CaptureFixture[str]) -> None:
    views = [one.as_dict() for one in freshness(fresh.use_case, fresh.settings, as_of=END)]
    console.show({"views": views}, json=True)
    assert [one["view"] for one in json.loads(capsys.readouterr().out)["views"]] == ["by_pair", "by_shop", "facts"]


def test_looking_imports_no_feast() -> None:
    code = "import sys, features.freshness; sys.exit('feast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
