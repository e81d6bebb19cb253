"""The use case's Feast repository: its store, applied and materialized. Here Millrace and Feast meet.

How a use case's `features.py` should look, as tried on Feast 0.67:

- `feature_repo(source)` returns the entities, FeatureViews, OnDemandFeatureViews and exactly one FeatureService.
- One `Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)` a join key; a view over two lists
  both: `FeatureView(name=…, entities=[origin, dest], ttl=timedelta(days=30), schema=[Field(name="origin",
  dtype=String), …, Field(name="delay_7d", dtype=Float64), …], source=source(route_recent))`. Put the join keys in the
  schema too, with their types. `source(table)` already names `event_time` and `known_at`.
- Feature names are unique over the whole service: `origin_wind`, `dest_wind`.
- An on-demand function takes and returns a dict of equally long lists, guards None, and stands alone: what it needs it
  imports inside, because Feast's registry keeps its source text and runs that elsewhere. The very same function stands
  in `UseCase.on_demand` and in the view:
  `OnDemandFeatureView(name="schedule", mode="python", sources=[RequestSource(name="request", schema=[Field(…), …])],
  schema=[Field(…), …], udf=schedule, udf_string=inspect.getsource(schedule))`.
- A join key that the function reads (carrier, origin, dest) is listed in the RequestSource like any other input. Plain
  Feast then misses it as a key online; our online stores do not. An output may not have an input's name: answer
  `carrier_code` for `carrier`.
- Times in a request are `UnixTimestamp`: the function gets timezone-aware datetimes (UTC).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from features.catalog import has_catalog, write_catalog
from features.materialize import Materialized, materialize
from features.store import check_store, open_store, repo_folder
from features.tables import table_name
from features.views import stale_policy
from millrace.errors import MillraceError, UseCaseError, first_line
from millrace.lake import open_lake
from millrace.settings import Settings
from millrace.source import EVENT_TIME, KNOWN_AT
from millrace.usecase import FeatureTable, UseCase

if TYPE_CHECKING:
    from feast import FeatureStore

__all__ = ["Materialized", "apply", "feature_objects", "materialize", "open_store"]


def feature_objects(use_case: UseCase, settings: Settings) -> Sequence[Any]:
    """The Feast objects that the use case declares, over the lake's feature tables.

    Raises `UseCaseError` when the use case has no feature store, or its `feature_repo` fails or returns something else.
    """
    declared = check_store(use_case)
    from feast import FileSource
    from feast.data_format import DeltaFormat

    lake = open_lake(settings, use_case.name)

    def source(table: FeatureTable) -> Any:
        return FileSource(
            name=table.name,
            path=lake.uri(table_name(table)),
            file_format=DeltaFormat(),
            timestamp_field=EVENT_TIME,
            created_timestamp_column=KNOWN_AT,
        )

    try:
        objects = list(declared(source))
    except MillraceError:
        raise
    except Exception as error:
        raise UseCaseError(
            f"The feature_repo of {use_case.name!r} fails: {first_line(error)}.",
            todo="It is called with source(table) and returns Feast entities, views and one FeatureService.",
        ) from error
    wrong = [type(item).__name__ for item in objects if not hasattr(item, "to_proto")]
    if wrong:
        raise UseCaseError(
            f"The feature_repo of {use_case.name!r} returns {', '.join(wrong)}, which Feast does not know."
        )
    return objects


def apply(use_case: UseCase, settings: Settings) -> bool:
    """Register the use case's Feast objects and forget those it no longer has; whether anything had changed.

    An unchanged repository costs only its comparison. What Feast knows of the online views is written down beside the
    registry for those that must not import Feast (`features.catalog`). Raises `UseCaseError` when Feast refuses an
    object or a view's `stale` tag is no policy.
    """
    objects = feature_objects(use_case, settings)
    folder = repo_folder(use_case, settings)
    stamp, digest = folder / "applied", _digest(objects)
    written = (folder / "registry.db").exists() and has_catalog(use_case, settings)
    if written and stamp.exists() and stamp.read_text() == digest:
        return False
    _check_policies(objects)
    store = open_store(use_case, settings)
    gone = _gone(store, objects)
    try:
        with (
            warnings.catch_warnings()
        ):  # Feast warns of on-demand views offline; our join does not run them through Feast
            warnings.filterwarnings("ignore", "On demand feature view is an experimental", RuntimeWarning)
            store.apply(objects, objects_to_delete=gone, partial=False)
    except Exception as error:
        raise UseCaseError(
            f"Feast refuses the feature_repo of {use_case.name!r}: {first_line(error)}.",
            looked=f"It was applied to {folder / 'registry.db'}.",
            todo="See features/repo.py for the shape of a use case's Feast objects that works.",
        ) from error
    write_catalog(use_case, settings, store.list_feature_views())
    stamp.write_text(digest)
    return True


def _check_policies(objects: Sequence[Any]) -> None:
    """Raise `UseCaseError` for a view whose `stale` tag is no policy, before Feast takes it."""
    from feast import FeatureView

    for item in objects:
        if isinstance(item, FeatureView):
            stale_policy(item)


def _digest(objects: Sequence[Any]) -> str:
    """A digest of the objects' definitions, without the times of their making and the pickles of their functions."""
    digest = sha256()
    for item in objects:
        proto = item.to_proto()
        _forget(proto)
        digest.update(type(item).__name__.encode() + proto.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _forget(proto: Any) -> None:
    """Clear what differs from one call to the next, in a protobuf message and the messages it holds."""
    for field, value in proto.ListFields():
        if field.name in {"created_timestamp", "last_updated_timestamp", "body"}:
            proto.ClearField(field.name)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for part in value if hasattr(value, "append") else [value]:
                _forget(part)
        elif field.message_type is not None and field.message_type.fields_by_name["value"].message_type is not None:
            for part in value.values():
                _forget(part)


def _gone(store: FeatureStore, objects: Sequence[Any]) -> list[Any]:
    """What the registry has and the use case no longer declares."""
    from feast.feature_view import DUMMY_ENTITY_NAME

    declared = {(type(item).__name__, item.name) for item in objects}
    try:
        known = [
            *store.list_feature_services(),
            *store.list_on_demand_feature_views(),
            *store.list_feature_views(),
            *(entity for entity in store.list_entities() if entity.name != DUMMY_ENTITY_NAME),
        ]
    except Exception:  # a registry that was never written lists nothing, and says so with an error
        return []
    return [item for item in known if (type(item).__name__, item.name) not in declared]
