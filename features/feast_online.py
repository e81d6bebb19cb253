"""Millrace's online stores as plugins of Feast's online-store interface: the plain Feast SDK reads and writes them.

Feast finds them by their class path in the repo config. What they do beyond Feast's own stores: the newest event wins
in any write order, a value past its view's TTL is missing, and a join key may also be an input of an on-demand view.
Feast gives a store no instant to read at, so the config may carry one (`at`); without it the TTL counts from now. Only
Feast imports this module (feast costs seconds); serving reads the same rows through `features.online`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

from features.online_store import Entry, RowStore, Stored, entity_key, instant, is_live, micros, pack, prefix, unpack
from features.redis_store import RedisRows
from features.sqlite_store import SqliteRows
from features.views import row_keys, time_to_live, view_layout

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Answer = tuple[datetime | None, dict[str, Value] | None]


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]  # feast ships no types
    """What both stores share: Feast's protobuf rows to packed entries and back."""

    _rows: RowStore | None = None

    def open_rows(self, config: Any) -> RowStore:
        """The packed rows behind this store; `config` is its part of the repo config."""
        raise NotImplementedError

    def rows(self, config: RepoConfig) -> RowStore:
        """The packed rows, opened once."""
        if self._rows is None:
            self._rows = self.open_rows(config.online_store)
        return self._rows

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows; of several of one entity the newest event stays, here and in the store."""
        self.rows(config).write(_entries(table, data))
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Answer]:
        """Each entity's event time and values; (None, None) if absent, expired, or not yet true at the instant."""
        at = micros(config.online_store.at or datetime.now(UTC))
        first = prefix(view_layout(table))
        found = self.rows(config).read([entity_key(first, _key_values(key)) for key in entity_keys])
        ttl = time_to_live(table)
        span = None if ttl is None else ttl // timedelta(microseconds=1)
        live = [row if row is not None and is_live(row, at, span) else None for row in found]
        return _answers(table, live, requested_features)

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: dict[str, Any],
        names: Any,
        response: Any,
        *rest: Any,
    ) -> None:
        """As Feast's, but a join key that is also an input of an on-demand view counts as a join key too.

        Feast 0.67 takes such a column as request data only, and then misses it as a key.
        """
        given = dict(zip(response.metadata.feature_names.val, response.results, strict=False))
        wanted = {key for view, _ in grouped_refs for key in row_keys(view).values()}
        taken = {key: list(given[key].values) for key in wanted if key not in join_key_values and key in given}
        super()._read_features_per_fv(config, grouped_refs, join_key_values | taken, names, response, *rest)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Remove the rows of deleted views; kept ones need nothing."""
        for view in tables_to_delete:
            self.rows(config).drop(view.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the rows of these views."""
        for view in tables:
            self.rows(config).drop(view.name)


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # feast ships no types
    """`path` is the SQLite file, made if absent; `at` the instant that reads ask for (None: now)."""

    type: Literal["features.feast_online.PackedSqliteOnlineStore"] = "features.feast_online.PackedSqliteOnlineStore"
    path: str
    at: datetime | None = None


class PackedSqliteOnlineStore(PackedOnlineStore):
    """Packed rows in one SQLite file."""

    def open_rows(self, config: PackedSqliteOnlineStoreConfig) -> RowStore:
        return SqliteRows(Path(config.path))


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # feast ships no types
    """`url` is Redis, `namespace` what every key begins with; `at` the instant that reads ask for (None: now)."""

    type: Literal["features.feast_online.PackedRedisOnlineStore"] = "features.feast_online.PackedRedisOnlineStore"
    url: str
    namespace: str
    at: datetime | None = None


class PackedRedisOnlineStore(PackedOnlineStore):
    """Packed rows in Redis."""

    def open_rows(self, config: PackedRedisOnlineStoreConfig) -> RowStore:
        return RedisRows(config.url, config.namespace)


def _entries(view: FeatureView, data: list[Row]) -> list[Entry]:
    first, names = prefix(view_layout(view)), [field.name for field in view.features]
    return [
        Entry(
            entity_key(first, _key_values(key)),
            micros(event),
            micros(created or event),
            pack([feast_value_type_to_python_type(values[name]) if name in values else None for name in names]),
        )
        for key, values, event, created in data
    ]


def _key_values(key: EntityKey) -> list[Any]:
    """The values of an entity's join keys, in the order of their names."""
    pairs = sorted(zip(key.join_keys, key.entity_values, strict=True), key=lambda pair: pair[0])
    return [feast_value_type_to_python_type(value) for _, value in pairs]


def _answers(view: FeatureView, found: list[Stored | None], features: list[str] | None) -> list[Answer]:
    """Packed rows as Feast wants them: protobuf values, made a column at a time."""
    fields = [(at, field) for at, field in enumerate(view.features) if features is None or field.name in features]
    live = [(instant(row[0]), unpack(row[2])) for row in found if row is not None]
    columns = {
        field.name: python_values_to_proto_values([values[at] for _, values in live], field.dtype.to_value_type())
        for at, field in fields
    }
    rows = iter(
        [(event, {name: column[place] for name, column in columns.items()}) for place, (event, _) in enumerate(live)]
    )
    return [(None, None) if row is None else next(rows) for row in found]
