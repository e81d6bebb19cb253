"""From what is asked for to a plan: the input's files, the way features are joined, the columns, the chunks.

Everything that can be refused before the first chunk is refused here. It knows nothing of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Literal

import polars as pl

from features.plan import ReadPlan
from millrace.bundle import open_bundle
from millrace.contract import Contract
from millrace.keys import public_key
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from serving.batch.checking import SAMPLE_ROWS, check_columns, check_sample
from serving.batch.inputs import gather, read_chunk, schemas
from serving.batch.joining import copy_views
from serving.batch.output import Output
from serving.batch.plan import Chunk, JobPlan, Piece, cut
from serving.batch.spec import JobSpec, LakeTable, Place, SqlRows
from serving.batch.wanted import choose_join, columns_to_read, wanted_columns

Kept = Literal["text", "integer", "instant"]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was recorded: its id, what was asked for with the input pinned, and the model that scores it."""

    id: str
    spec: JobSpec
    place: Place
    version: int
    bundle: str
    as_of: datetime
    scored_at: datetime


def make_plan(job: Job, use_case: UseCase, settings: Settings, lake: Lake) -> JobPlan:
    """Resolve the job, copying what must be copied into its folder, and check all that can be checked beforehand.

    Raises `FeatureError` naming a column that is missing or of a wrong type, `ScoreJobError` for an output that has
    other columns, `BundleError` and whatever reading the input raises.
    """
    folder = settings.folder("jobs") / job.id
    folder.mkdir(exist_ok=True)
    contract = open_bundle(Path(job.bundle), public_key=public_key(settings)).contract
    read_plan = ReadPlan.from_dict(contract.read_plan) if contract.read_plan else None
    plan = _resolved(job, use_case, settings, lake, folder)
    found = list(schemas(plan, lake))
    columns = reduce(lambda one, other: one & other, (set(schema) for _, schema in found))
    keep = _kept([schema for _, schema in found], [*use_case.population.source.key, EVENT_TIME])
    plan = replace(plan, join=choose_join(job.spec.join, columns, contract, read_plan), keep=keep)
    wanted = wanted_columns(plan, contract, read_plan, use_case)
    for where, schema in found:
        check_columns(schema, wanted, where=where)
    if plan.kind == "texts":
        _check_texts(plan, contract, read_plan, use_case, lake)
    output = Output(plan, contract, use_case)
    sink = output.sink(lake, settings)
    try:
        sink.check(output.schema(wanted))
    finally:
        sink.close()
    if plan.join != "given" and read_plan is not None:
        copy_views(read_plan, use_case, settings, lake, folder / "views", known_by=plan.as_of)
    return plan


def _resolved(job: Job, use_case: UseCase, settings: Settings, lake: Lake, folder: Path) -> JobPlan:
    """The plan with its files and chunks, before anything is known of columns."""
    place, spec = job.place, job.spec
    kind, files = gather(place, lake, folder / "rows", read_sql=_reader(settings))
    of_population = isinstance(place, LakeTable) and place.table == f"raw/{use_case.population.source.name}"
    return JobPlan(
        job=job.id,
        use_case=spec.use_case,
        folder=str(folder),
        version=job.version,
        bundle=job.bundle,
        kind=kind,
        files=tuple(files),
        chunks=cut(files, spec.chunk_rows),
        join=spec.join,
        output=spec.output,
        as_of=job.as_of,
        scored_at=job.scored_at,
        log=spec.log,
        table=place.table if isinstance(place, LakeTable) else "",
        table_version=place.version if isinstance(place, LakeTable) and place.version is not None else -1,
        start=spec.start,
        until=spec.until,
        lead_seconds=use_case.population.lead.total_seconds() if of_population else 0.0,
        known_by=job.as_of if of_population else None,
    )


def _reader(settings: Settings) -> Callable[[SqlRows, Path], None]:
    def copy(rows: SqlRows, folder: Path) -> None:
        from serving.batch.sql import copy_query

        copy_query(rows, folder, settings)

    return copy


def _kept(found: Sequence[Mapping[str, pl.DataType]], names: Sequence[str]) -> dict[str, Kept]:
    """Of these columns those that every file has, with what the output holds of them."""
    keep: dict[str, Kept] = {}
    for name in dict.fromkeys(names):
        types = [schema.get(name) for schema in found]
        if all(dtype is not None for dtype in types):
            keep[name] = "instant" if name == EVENT_TIME else _kind([dtype for dtype in types if dtype is not None])
    return keep


def _kind(types: Sequence[pl.DataType]) -> Kept:
    given = [dtype for dtype in types if dtype != pl.Null]
    if given and all(dtype.is_integer() for dtype in given):
        return "integer"
    return "instant" if given and all(isinstance(dtype, pl.Datetime | pl.Date) for dtype in given) else "text"


def _check_texts(plan: JobPlan, contract: Contract, read_plan: ReadPlan | None, use_case: UseCase, lake: Lake) -> None:
    """Look at the first rows of an input without types: a column of which nothing can be read is refused."""
    wanted = wanted_columns(plan, contract, read_plan, use_case)
    head = next(
        (Piece(place, 0, min(SAMPLE_ROWS, file.rows)) for place, file in enumerate(plan.files) if file.rows), None
    )
    if head is None:
        return
    (rows,) = read_chunk(plan, lake, Chunk(0, 0, (head,)), lambda names: columns_to_read(plan, wanted, names))
    check_sample(rows, wanted, where=f"the first {rows.height:,} rows of the input")
