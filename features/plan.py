"""The read plan: everything that serving needs to know to read a model's features, compiled once from Feast's objects.

A model's bundle carries the plan as JSON, so a server reads features without importing Feast (8 seconds) or resolving a
feature service per request (11 ms). This module imports nothing of Feast; it only looks at the objects it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from features.views import Down, Stale, down_policy, row_keys, stale_policy, stored_features, time_to_live, view_layout
from millrace.errors import FeatureError, UseCaseError
from millrace.usecase import UseCase


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """One value: its name in the answer, its Feast type (such as `Float64`), its place in the stored row."""

    name: str
    dtype: str
    position: int


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """One feature view: where its rows lie online (`layout`), by which columns of a request they are found (in stored
    order, with their types), what is taken of them, when they expire (seconds, inclusive; None: never), what is done
    with them then and what while the store is down (plans of models that were trained before this could be said have
    `flag` and `default`)."""

    name: str
    layout: str
    join_keys: tuple[str, ...]
    key_types: tuple[str, ...]
    features: tuple[FeaturePlan, ...]
    ttl: float | None
    stale: Stale = "flag"
    down: Down = "default"


@dataclass(frozen=True, slots=True)
class InputPlan:
    """One value that a request must bring."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class OnDemandPlan:
    """One on-demand view: the name of its function in `use_case.on_demand`, the request's inputs it reads, the features
    of other views it reads, and what it answers (`position` is unused)."""

    name: str
    function: str
    inputs: tuple[InputPlan, ...]
    reads: tuple[str, ...]
    features: tuple[FeaturePlan, ...]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How to read what a model sees; `features` are the names in the order of the FeatureService.

    A view may list features that the service does not name: on-demand functions read them.
    """

    use_case: str
    service: str
    views: tuple[ViewPlan, ...]
    on_demand: tuple[OnDemandPlan, ...]
    features: tuple[str, ...]

    @property
    def join_keys(self) -> tuple[str, ...]:
        """The columns that a row is found by, each once, in the order of the views."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.join_keys))

    @property
    def request_inputs(self) -> dict[str, str]:
        """The values beside the join keys that a request must bring, with their Feast types."""
        inputs = {item.name: item.dtype for view in self.on_demand for item in view.inputs}
        return {name: dtype for name, dtype in inputs.items() if name not in self.join_keys}

    @property
    def row_types(self) -> dict[str, str]:
        """Every column that a row must have, join keys first, with its Feast type."""
        keys = {key: dtype for view in self.views for key, dtype in zip(view.join_keys, view.key_types, strict=True)}
        return keys | self.request_inputs

    @property
    def dtypes(self) -> dict[str, str]:
        """The Feast type of each feature, in order."""
        return {name: self.dtypes_of_all[name] for name in self.features}

    @property
    def dtypes_of_all(self) -> dict[str, str]:
        """The Feast type of every feature that is read, also of those that only on-demand functions see."""
        stored = {item.name: item.dtype for view in self.views for item in view.features}
        return stored | {item.name: item.dtype for view in self.on_demand for item in view.features}

    def dependents(self, name: str) -> frozenset[str]:
        """The features of the plan that cannot be had without the row's column `name`."""
        direct = {item.name for view in self.views if name in view.join_keys for item in view.features}
        for view in self.on_demand:
            if direct.intersection(view.reads) or name in {item.name for item in view.inputs}:
                direct |= {item.name for item in view.features}
        return frozenset(direct.intersection(self.features))

    def to_dict(self) -> dict[str, Any]:
        """The plan in values that JSON has."""
        plan: dict[str, Any] = msgspec.to_builtins(self)
        return plan

    @classmethod
    def from_dict(cls, plan: dict[str, Any]) -> ReadPlan:
        """The plan again; `FeatureError` when it is not one."""
        try:
            return msgspec.convert(plan, cls)
        except msgspec.ValidationError as error:
            raise FeatureError(
                f"The read plan is not one: {error}.", todo="Train the model again: millrace train NAME."
            ) from error


def read_plan(use_case: UseCase, store: Any) -> ReadPlan:
    """Compile the plan of the use case's FeatureService from a Feast store in which it has been applied.

    Raises `UseCaseError` when an on-demand view's function is not in `use_case.on_demand`, or two features
    share a name.
    """
    service = _service(use_case, store)
    regular = {view.name: view for view in store.list_feature_views()}
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    chosen = [projection for projection in service.feature_view_projections if projection.name in regular]
    asked = [projection for projection in service.feature_view_projections if projection.name in on_demand]
    functions = [_on_demand(use_case, on_demand[projection.name], projection) for projection in asked]
    views: dict[str, tuple[Any, list[str]]] = {}
    for projection in (*chosen, *(hidden for view in asked for hidden in _sources(on_demand[view.name]))):
        _, names = views.setdefault(
            projection.name_to_use(), (regular[projection.name].with_projection(projection), [])
        )
        names.extend(field.name for field in projection.features if field.name not in names)
    order = [field.name for projection in service.feature_view_projections for field in projection.features]
    _check_names(use_case, order)
    plans = tuple(_view(view, names) for view, names in views.values())
    return ReadPlan(use_case.name, service.name, plans, tuple(functions), tuple(order))


def _service(use_case: UseCase, store: Any) -> Any:
    services = store.list_feature_services()
    if len(services) != 1:
        names = ", ".join(service.name for service in services) or "none"
        raise UseCaseError(
            f"Use case {use_case.name!r} must have one FeatureService, which names what the model sees.",
            looked=f"Its feature_repo defines: {names}.",
            todo="Return exactly one FeatureService from feature_repo.",
        )
    return services[0]


def _sources(view: Any) -> list[Any]:
    return list(view.source_feature_view_projections.values())


def _view(view: Any, names: list[str]) -> ViewPlan:
    keys, types = row_keys(view), {field.name: str(field.dtype) for field in view.entity_columns}
    stored = stored_features(view)
    places = {name: place for place, (name, _) in enumerate(stored)}
    ttl = time_to_live(view)
    return ViewPlan(
        name=view.projection.name_to_use(),
        layout=view_layout(view),
        join_keys=tuple(keys.values()),
        key_types=tuple(types[key] for key in keys),
        features=tuple(FeaturePlan(name, stored[places[name]][1], places[name]) for name in names),
        ttl=None if ttl is None else ttl.total_seconds(),
        stale=stale_policy(view),
        down=down_policy(view),
    )


def _on_demand(use_case: UseCase, view: Any, projection: Any) -> OnDemandPlan:
    function = view.feature_transformation.udf.__name__
    declared = [declared.__name__ for declared in use_case.on_demand]
    if function not in declared:
        raise UseCaseError(
            f"The on-demand view {view.name!r} calls {function}, which is not among the on_demand functions.",
            looked=f"on_demand names: {', '.join(declared) or 'none'}.",
            todo=f"Write on_demand=({', '.join([*declared, function])},) in use_case.py.",
        )
    fields = [field for source in view.source_request_sources.values() for field in source.schema]
    return OnDemandPlan(
        name=view.name,
        function=function,
        inputs=tuple(InputPlan(field.name, str(field.dtype)) for field in fields),
        reads=tuple(field.name for source in _sources(view) for field in source.features),
        features=tuple(FeaturePlan(field.name, str(field.dtype), -1) for field in projection.features),
    )


def _check_names(use_case: UseCase, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UseCaseError(
            f"The FeatureService of {use_case.name!r} has more than one feature named {', '.join(twice)}.",
            todo="Give each its own name in the feature table, such as origin_wind and dest_wind.",
        )
