"""On-demand features: the use case's own functions, called the same way for a million past rows and for one request.

Feast calls the same functions when its SDK is used directly; here they get only the columns they read. This module
knows nothing of Feast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from features.plan import FeaturePlan, OnDemandPlan, ReadPlan
from features.views import POLARS_TYPES
from millrace.errors import FeatureError, first_line
from millrace.usecase import OnDemand, UseCase


def bind_functions(plan: ReadPlan, use_case: UseCase) -> list[tuple[OnDemandPlan, OnDemand]]:
    """Each on-demand view of the plan with its function; `FeatureError` if the use case no longer has it."""
    known = {function.__name__: function for function in use_case.on_demand}
    lost = [view.function for view in plan.on_demand if view.function not in known]
    if lost:
        raise FeatureError(
            f"The model reads the on-demand function {', '.join(lost)}, which the use case no longer has.",
            looked=f"on_demand of {use_case.name!r} names: {', '.join(known) or 'none'}.",
            todo="Put the function back, or train a new model: millrace train NAME.",
        )
    return [(view, known[view.function]) for view in plan.on_demand]


def compute(
    view: OnDemandPlan, function: OnDemand, keys: Sequence[str], column: Callable[[str], list[Any]], rows: int
) -> Mapping[str, list[Any]]:
    """The on-demand features of some rows; `column` gives a column's values, `keys` are the rows' join keys.

    As with Feast, a function may read its declared inputs, the features of its source views, and the join keys. Raises
    `FeatureError` when it fails or its answer has not one value a row for each feature.
    """
    names = dict.fromkeys((*(item.name for item in view.inputs), *view.reads, *keys))
    try:
        answer = function({name: column(name) for name in names})
    except Exception as error:
        raise FeatureError(
            f"The on-demand function {view.function} failed: {first_line(error)}.",
            looked=f"It was given {rows:,} rows of {', '.join(names)}.",
            todo="A value may be None: an input that was null, a feature that is missing or expired.",
        ) from error
    for feature in view.features:
        if len(answer.get(feature.name, ())) != rows:
            raise FeatureError(
                f"The on-demand function {view.function} gave no list of {rows:,} values for {feature.name}.",
                looked=f"It answered: {', '.join(answer)}.",
                todo="Return one value a row for each feature of the on-demand view's schema.",
            )
    return answer


def with_on_demand(plan: ReadPlan, use_case: UseCase, frame: pl.DataFrame) -> pl.DataFrame:
    """`frame`, which has the plan's other features, with the on-demand ones, computed by the functions that serving
    calls. Raises `FeatureError` for a value that is not of its declared type."""
    for view, function in bind_functions(plan, use_case):
        answer = compute(view, function, plan.join_keys, partial(_values, frame), frame.height)
        frame = frame.with_columns(_series(view, feature, answer[feature.name]) for feature in view.features)
    return frame


def _values(frame: pl.DataFrame, name: str) -> list[Any]:
    column = frame[name]
    if not isinstance(column.dtype, pl.Datetime) or column.null_count():
        return column.to_list()
    # Making a datetime takes 1.5 µs, and a batch has each of its instants many times: each is made once.
    times, places = np.unique(column.to_physical().to_numpy(), return_inverse=True)
    objects = np.empty(len(times), dtype=object)
    objects[:] = pl.Series(times).cast(column.dtype).to_list()
    made: list[Any] = objects[places].tolist()
    return made


def _series(view: OnDemandPlan, feature: FeaturePlan, values: list[Any]) -> pl.Series:
    try:
        return pl.Series(feature.name, values, POLARS_TYPES.get(feature.dtype))
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise FeatureError(
            f"The on-demand function {view.function} gave values for {feature.name} that are not {feature.dtype}.",
            looked=first_line(error),
            todo="Return values of the type that the on-demand view's schema declares, or None.",
        ) from error
