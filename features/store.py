"""Where a use case's Feast registry and online rows lie, if it has a feature store, and Feast's store on our plugins.

Opening the rows imports no Feast; opening Feast's store takes the seconds that Feast needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.online_store import RowReader, RowStore
from millrace.errors import UseCaseError
from millrace.settings import Settings
from millrace.usecase import FeatureTable, UseCase

if TYPE_CHECKING:
    from feast import FeatureStore


FeatureRepo = Callable[[Callable[[FeatureTable], Any]], Sequence[Any]]


def check_store(use_case: UseCase) -> FeatureRepo:
    """The function that declares the use case's Feast objects.

    Raises `UseCaseError` for a use case whose inputs all come with the request: it has no views.
    """
    if use_case.feature_repo is None:
        raise UseCaseError(
            f"The use case {use_case.name!r} has no feature store: its inputs come with each row.",
            looked=f"Its request_features are {', '.join(use_case.request_features)}.",
        )
    return use_case.feature_repo


def repo_folder(use_case: UseCase, settings: Settings) -> Path:
    """Where the use case's Feast registry and SQLite online store lie; made if absent."""
    folder = settings.folder("feast") / use_case.name
    folder.mkdir(exist_ok=True)
    return folder


def online_path(use_case: UseCase, settings: Settings) -> Path:
    """The SQLite file of the use case's online store."""
    return repo_folder(use_case, settings) / "online.db"


def online_namespace(use_case: UseCase, settings: Settings) -> str:
    """What every Redis key of the use case begins with."""
    return f"{settings.redis_prefix}:{use_case.name}"


def open_rows(use_case: UseCase, settings: Settings) -> RowStore:
    """The packed rows of the use case's online store, without Feast."""
    if settings.online_store == "redis":
        from features.redis_store import RedisRows

        return RedisRows(settings.redis_url, online_namespace(use_case, settings))
    from features.sqlite_store import SqliteRows

    return SqliteRows(online_path(use_case, settings))


def open_served_rows(use_case: UseCase, settings: Settings) -> RowReader:
    """The same rows for answering requests: a read fails after `feature_ms`, and where there is no store."""
    patience = settings.feature_ms / 1_000
    if settings.online_store == "redis":
        from features.redis_store import RedisRows

        return RedisRows(settings.redis_url, online_namespace(use_case, settings), patience=patience)
    from features.sqlite_store import SqliteRows

    return SqliteRows(online_path(use_case, settings), patience=patience, must_exist=True)


def open_store(use_case: UseCase, settings: Settings, *, at: datetime | None = None) -> FeatureStore:
    """Feast's own store on our offline and online plugins.

    `at` is the instant that online reads ask for: a value is missing if it had expired by then, or was not yet known
    (None: now).
    """
    from feast import FeatureStore, RepoConfig

    return FeatureStore(config=RepoConfig(**store_config(use_case, settings, at=at)))


def store_config(use_case: UseCase, settings: Settings, *, at: datetime | None = None) -> dict[str, Any]:
    """What Feast's `feature_store.yaml` says of the use case's store; `at` as in `open_store`.

    It may hold passwords: the storage options of the lake, and the URL of Redis.
    """
    folder = repo_folder(use_case, settings)
    return {
        "project": use_case.name,
        "provider": "local",
        "registry": {"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 600},
        "offline_store": {"type": "features.offline_store.PolarsOfflineStore", "options": settings.lake_options},
        "online_store": _online_config(use_case, settings) | ({"at": at} if at else {}),
        "entity_key_serialization_version": 3,
        "materialization_config": {"pull_latest_features": True},
    }


def _online_config(use_case: UseCase, settings: Settings) -> dict[str, Any]:
    if settings.online_store == "redis":
        return {
            "type": "features.feast_online.PackedRedisOnlineStore",
            "url": settings.redis_url,
            "namespace": online_namespace(use_case, settings),
        }
    path = str(online_path(use_case, settings))
    return {"type": "features.feast_online.PackedSqliteOnlineStore", "path": path}
