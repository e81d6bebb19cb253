"""The catalog: what the platform knows of each online feature view without Feast, as JSON beside the registry.

Feast's registry stays the truth; `features.repo.apply` writes the catalog whenever it has applied. The server checks
pushed rows by it and reports how fresh each view is; Feast would cost it eight seconds. This module imports nothing of
Feast and only looks at the objects it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from features.store import check_store, repo_folder
from features.views import Stale, join_keys, stale_policy, stored_features, time_to_live, view_layout
from millrace.errors import FeatureError
from millrace.lake import open_lake
from millrace.settings import Settings
from millrace.usecase import UseCase


@dataclass(frozen=True, slots=True)
class ViewEntry:
    """One online feature view.

    `table` is the lake's table that it reads (empty when its source lies elsewhere) and `path` where its source lies.
    `layout` names its rows in the online store, where a row is found by its `join_keys` (in that order, with their
    Feast types) and holds the `features` (names and Feast types, in that order). `ttl` is in seconds and inclusive
    (None: never expires), `stale` what serving does past it. `event` and `created` are the source's columns of the time
    a row happened and the time it became known (None: then too).
    """

    name: str
    table: str
    path: str
    layout: str
    join_keys: tuple[str, ...]
    key_types: tuple[str, ...]
    features: tuple[tuple[str, str], ...]
    ttl: float | None
    stale: Stale
    event: str
    created: str | None

    @property
    def lifetime(self) -> timedelta | None:
        """The TTL as a stretch of time; None: never expires."""
        return None if self.ttl is None else timedelta(seconds=self.ttl)


_decode = msgspec.json.Decoder(tuple[ViewEntry, ...]).decode


def write_catalog(use_case: UseCase, settings: Settings, views: Iterable[Any]) -> None:
    """Write the catalog of these applied Feast views, whole or not at all; views that are not online are left out."""
    root = open_lake(settings, use_case.name).root
    entries = sorted((_entry(view, root) for view in views if view.online), key=lambda entry: entry.name)
    path = _path(use_case, settings)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(entries), indent=2))
    new.replace(path)


def read_catalog(use_case: UseCase, settings: Settings) -> tuple[ViewEntry, ...]:
    """The use case's online views in the order of their names.

    Raises `FeatureError` when its feature repository has not been applied by this version of Millrace, `UseCaseError`
    when it has none.
    """
    check_store(use_case)
    path = _path(use_case, settings)
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        found = "there is none" if isinstance(error, FileNotFoundError) else "it cannot be read"
        raise FeatureError(
            f"The feature views of {use_case.name!r} have not been applied yet.",
            looked=f"The catalog should lie at {path}; {found}.",
            todo=f"Type: millrace materialize {use_case.name}",
        ) from error


def has_catalog(use_case: UseCase, settings: Settings) -> bool:
    """Whether there is a catalog that this version of Millrace reads."""
    try:
        read_catalog(use_case, settings)
    except FeatureError:
        return False
    return True


def _path(use_case: UseCase, settings: Settings) -> Path:
    return repo_folder(use_case, settings) / "catalog.json"


def _entry(view: Any, root: str) -> ViewEntry:
    keys, types = join_keys(view), {field.name: str(field.dtype) for field in view.entity_columns}
    source, ttl = view.batch_source, time_to_live(view)
    within = source.path.startswith(f"{root}/")
    return ViewEntry(
        name=view.name,
        table=source.path.removeprefix(f"{root}/") if within else "",
        path=source.path,
        layout=view_layout(view),
        join_keys=tuple(keys),
        key_types=tuple(types[key] for key in keys),
        features=tuple(stored_features(view)),
        ttl=None if ttl is None else ttl.total_seconds(),
        stale=stale_policy(view),
        event=source.timestamp_field,
        created=source.created_timestamp_column or None,
    )
