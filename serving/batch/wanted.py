"""Which columns of an input a job reads, what they must hold, and which of its rows the job is about.

It knows the model's contract, its read plan and the use case's key; nothing of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import polars as pl

from features.plan import ReadPlan
from millrace.contract import Contract
from millrace.errors import FeatureError
from millrace.source import EVENT_TIME, KNOWN_AT
from millrace.usecase import UseCase
from serving.batch.checking import Wanted
from serving.batch.plan import JobPlan
from serving.batch.spec import Join
from serving.online.bodies import ColumnType
from serving.online.columns import columns_and_needs


def choose_join(join: Join, columns: Iterable[str], contract: Contract, plan: ReadPlan | None) -> Join:
    """How features are joined to rows with these columns: as asked, or for `auto` the first way that they allow.

    Raises `FeatureError` when a join is asked for and the model has no features to be joined.
    """
    there = set(columns)
    if plan is None:
        if join in ("auto", "given"):
            return "given"
        raise FeatureError(
            f"The model {contract.candidate!r} has no feature store to join from.",
            looked=f"Its inputs come with each row: {', '.join(contract.names)}.",
            todo="Leave --join away, or write --join given.",
        )
    if join != "auto":
        return join
    if there.issuperset(contract.names):
        return "given"
    return "point-in-time" if there.issuperset({*plan.join_keys, EVENT_TIME}) else "latest"


def wanted_columns(plan: JobPlan, contract: Contract, read_plan: ReadPlan | None, use_case: UseCase) -> Wanted:
    """The columns that the plan's job reads: what its join needs, and the key, the time and the slices beside it."""
    key = use_case.population.source.key
    types, _ = columns_and_needs(contract, read_plan, key)
    given = plan.join == "given" or read_plan is None
    names: Sequence[str] = contract.names if given else list(read_plan.row_types) if read_plan else ()
    needed: dict[str, ColumnType] = {name: types[name] for name in names}
    optional: dict[str, ColumnType] = {name: types[name] for name in key}
    timed = plan.join == "point-in-time" or plan.start is not None or plan.until is not None
    (needed if timed else optional)[EVENT_TIME] = "instant"
    # A key may be a model's input as well, and `event_time` a part of the key.
    filled = dict.fromkeys([*key, *([EVENT_TIME] if timed else [])])
    return Wanted(needed, optional, tuple(filled), texts=plan.kind == "texts", beside=tuple(use_case.slices))


def columns_to_read(plan: JobPlan, wanted: Wanted, names: Iterable[str]) -> list[str]:
    """Of the names that a file has, those that the job reads."""
    used = {*wanted.needed, *wanted.optional, *wanted.beside, *([KNOWN_AT] if plan.known_by else [])}
    return [name for name in names if name in used]


def within(plan: JobPlan, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that the job is about; of the population's own table with the moment of prediction as `event_time`."""
    if plan.known_by is not None:
        moment = pl.col(EVENT_TIME) - timedelta(seconds=plan.lead_seconds)
        rows = rows.filter(pl.col(KNOWN_AT) <= plan.known_by).with_columns(moment).drop(KNOWN_AT)
    return rows


def in_stretch(plan: JobPlan) -> pl.Expr | None:
    """Which rows have their moment of prediction in [start, until); None: every row. A row without one is rejected."""
    at, parts = pl.col(EVENT_TIME), []
    if plan.start is not None:
        parts.append(at >= plan.start)
    if plan.until is not None:
        parts.append(at < plan.until)
    return pl.all_horizontal(parts) | at.is_null() if parts else None
