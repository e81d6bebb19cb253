"""The use case as a Feast repository on disk, so that Feast's own command line, SDK and UI work on it as they are.

The folder holds what such a repository holds: `feature_store.yaml`, which names our plugins, and a Python file that
yields the use case's own Feast objects. Registry and SQLite online store lie there anyway. `feast apply` in it finds
nothing to change; what Feast's tools write through it, the platform reads, and the other way round.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from features.repo import apply, feature_objects
from features.store import repo_folder, store_config
from millrace.loader import load_use_case
from millrace.settings import Settings, read_settings
from millrace.usecase import UseCase

CONFIG, OBJECTS = "feature_store.yaml", "feast_objects.py"
_DEFINITIONS = '''"""The Feast objects of the use case {name}, for Feast's own tools: `feast plan`, `feast apply`.

`millrace features repo` writes this file anew; change {folder} instead.
"""

from features.feast_repo import definitions

globals().update(definitions({folder!r}, lake={lake!r}))
'''


def write_repo(use_case: UseCase, folder: Path, settings: Settings) -> Path:
    """Register the use case's Feast objects and write the repository's two files; the path for `feast -c PATH`.

    `folder` is the use case's own. The configuration can hold passwords: only its owner may read it. Raises
    `UseCaseError` when Feast refuses an object.
    """
    apply(use_case, settings)
    repo = repo_folder(use_case, settings)
    _write(repo / CONFIG, _yaml(store_config(use_case, settings)))
    _write(repo / OBJECTS, _DEFINITIONS.format(name=use_case.name, folder=str(folder), lake=settings.lake))
    return repo


def definitions(folder: str, *, lake: str) -> dict[str, Any]:
    """The Feast objects of the use case in `folder` over the lake at `lake`, each under a name of its own.

    Entities and views may share a name in Feast, so the kind leads: `feature_view_origin`.
    """
    settings = read_settings(lake_url=lake)
    objects = feature_objects(load_use_case(folder, settings), settings)
    return {f"{_snake(type(item).__name__)}_{item.name}": item for item in objects}


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(config, sort_keys=False))


def _write(path: Path, text: str) -> None:
    """Put a file in place whole, readable by its owner alone from its first byte on."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
