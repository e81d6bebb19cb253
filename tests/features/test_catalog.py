"""The catalog says of each online view what Feast says, and is there whenever the repository has been applied."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from returns import Place

from features.catalog import ViewEntry, read_catalog
from features.repo import apply, open_store
from features.store import repo_folder
from features.views import join_keys, stored_features, view_layout
from millrace.errors import FeatureError, UseCaseError


def entry_of(place: Place, name: str) -> ViewEntry:
    return next(entry for entry in read_catalog(place.use_case, place.settings) if entry.name == name)


def with_view(place: Place, name: str, change: Any) -> Place:
    """The place with `change` called on the Feast view of that name."""

    def objects(source: Any) -> Any:
        found = list(place.use_case.feature_repo(source))
        change(next(item for item in found if type(item).__name__ == "FeatureView" and item.name == name))
        return found

    return Place(replace(place.use_case, feature_repo=objects), place.settings, place.lake)


def test_every_online_view_is_in_it_as_feast_has_it(built: Place) -> None:
    views = open_store(built.use_case, built.settings).list_feature_views()
    catalog = read_catalog(built.use_case, built.settings)
    assert [(entry.name, entry.layout, entry.join_keys, entry.features) for entry in catalog] == sorted(
        (view.name, view_layout(view), tuple(join_keys(view)), tuple(stored_features(view))) for view in views
    )


def test_an_entry_names_its_table_times_types_and_ttl(built: Place) -> None:
    entry = entry_of(built, "by_pair")
    view = open_store(built.use_case, built.settings).get_feature_view("by_pair")
    assert (entry.table, entry.path) == ("features/pairs", built.lake.uri("features/pairs"))
    assert (entry.event, entry.created) == ("event_time", "known_at")
    assert dict(zip(entry.join_keys, entry.key_types, strict=True)) == {
        field.name: str(field.dtype) for field in view.entity_columns
    }
    assert entry.lifetime == view.ttl


def test_a_view_without_a_ttl_never_expires(place: Place) -> None:
    changed = with_view(place, "by_shop", lambda view: setattr(view, "ttl", timedelta(0)))
    apply(changed.use_case, changed.settings)
    assert entry_of(changed, "by_shop").lifetime is None


def test_a_view_that_is_not_online_is_left_out(place: Place) -> None:
    changed = with_view(place, "facts", lambda view: setattr(view, "online", False))
    apply(changed.use_case, changed.settings)
    assert "facts" not in [entry.name for entry in read_catalog(changed.use_case, changed.settings)]


def test_the_policy_is_the_views_tag_and_flag_without_one(place: Place) -> None:
    changed = with_view(place, "by_shop", lambda view: view.tags.update(stale="refuse"))
    apply(changed.use_case, changed.settings)
    assert (entry_of(changed, "by_shop").stale, entry_of(changed, "by_pair").stale) == ("refuse", "flag")


def test_a_changed_policy_is_applied(place: Place) -> None:
    apply(place.use_case, place.settings)
    changed = with_view(place, "by_shop", lambda view: view.tags.update(stale="serve"))
    assert apply(changed.use_case, changed.settings)
    assert entry_of(changed, "by_shop").stale == "serve"


def test_a_typo_in_a_policy_is_named_before_anything_is_applied(place: Place) -> None:
    changed = with_view(place, "by_shop", lambda view: view.tags.update(stale="refsue"))
    with pytest.raises(UseCaseError, match=r"'by_shop' has the tag stale='refsue'.*one of: serve, flag, refuse"):
        apply(changed.use_case, changed.settings)
    assert not (repo_folder(place.use_case, place.settings) / "registry.db").exists()


def test_a_use_case_that_was_never_applied_says_what_to_type(place: Place) -> None:
    with pytest.raises(FeatureError, match=r"catalog\.json; there is none\. Type: millrace materialize returns"):
        read_catalog(place.use_case, place.settings)


@pytest.mark.parametrize("damage", [b"", b"[{", b'[{"name": "by_shop"}]'])
def test_a_catalog_that_cannot_be_read_is_written_again(place: Place, damage: bytes) -> None:
    apply(place.use_case, place.settings)
    (repo_folder(place.use_case, place.settings) / "catalog.json").write_bytes(damage)
    with pytest.raises(FeatureError, match="it cannot be read"):
        read_catalog(place.use_case, place.settings)
    assert apply(place.use_case, place.settings)
    assert len(read_catalog(place.use_case, place.settings)) == 3


def test_reading_it_imports_no_feast() -> None:
    code = "import sys, features.catalog; sys.exit('feast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
