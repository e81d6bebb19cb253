"""What a job writes of its scored rows: the columns of its output, their digest, and the prediction log's rows.

The score time is the job's, one for all rows, so that a chunk that is done twice has the same content.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from millrace.contract import Contract
from millrace.digest import content_digest
from millrace.errors import ScoreJobError
from millrace.lake import Lake
from millrace.prediction_log import PREDICTED, log_batch, row_keys
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from serving.batch.checking import INSTANT, Wanted
from serving.batch.inputs import ROW
from serving.batch.plan import JobPlan
from serving.batch.score import Scores
from serving.batch.sinks import FolderSink, LakeSink, Sink, batch_name
from serving.batch.spec import FilePath, LakeTable, read_place
from serving.online.bodies import ColumnType, Numbers

_KEPT: Mapping[str, Any] = {"text": pl.String(), "integer": pl.Int64(), "instant": INSTANT}
_TYPES: Mapping[str, Any] = {
    "number": pl.Float64(),
    "integer": pl.Int64(),
    "flag": pl.Boolean(),
    "instant": INSTANT,
    "text": pl.String(),
    "key": pl.String(),
}


class Output:
    """The columns of one job's output and log.

    These are the kept columns of the input (without a key the row's place, `row`), `score`, with classes `predicted`
    and `score_<class>`, then `model_version`, `scored_at` and `run_id`.
    """

    def __init__(self, plan: JobPlan, contract: Contract, use_case: UseCase) -> None:
        self._plan, self._contract, self._slices = plan, contract, use_case.slices
        self._key = use_case.population.source.key
        self._keyed = all(name in plan.keep for name in self._key)

    def frame(self, rows: pl.DataFrame, scores: Scores) -> pl.DataFrame:
        """The output's rows of scored input rows; scores are (rows,) or (rows, classes)."""
        plan = self._plan
        kept: list[Any] = [pl.col(name).cast(_KEPT[kind], strict=False) for name, kind in plan.keep.items()]
        if not any(name in plan.keep for name in self._key):
            kept = [pl.col(ROW).cast(pl.Int64).alias("row"), *kept]
        return rows.select(kept).with_columns(
            *score_columns(self._contract, scores),
            pl.lit(plan.version, pl.Int64).alias("model_version"),
            pl.lit(plan.scored_at, INSTANT).alias("scored_at"),
            pl.lit(plan.job).alias("run_id"),
        )

    def digest(self, frame: pl.DataFrame, rows: pl.Series) -> str:
        """Of the keys and scores; not of the time or the run, which another run of the same job has its own of."""
        return content_digest(frame.drop("scored_at", "run_id").with_columns(rows.alias(ROW)), [ROW])

    def sink(self, lake: Lake, settings: Settings) -> Sink:
        """Where the frames go; not asked yet whether it takes them.

        Raises `ScoreJobError` when rows without a key shall go to a database, `SettingsError` for a place that is none.
        """
        place, run = read_place(self._plan.output, "output"), self._plan.job
        if isinstance(place, FilePath):
            return FolderSink(Path(place.path), run)
        if isinstance(place, LakeTable):
            return LakeSink(lake, place.table, run)
        if not self._keyed:
            raise ScoreJobError(
                f"A database's table needs a key, and the rows have no {', '.join(self._key)}.",
                looked=f"Of the rows' columns the output keeps {', '.join(self._plan.keep) or 'none'}.",
                todo="Bring the key with the rows, or choose a folder or a lake table as --output.",
            )
        from serving.batch.sql import SqlSink

        return SqlSink(place.place, place.sql, self._key, settings)

    def schema(self, wanted: Wanted) -> pl.Schema:
        """The output's columns and types."""
        empty, contract = self.no_rows(wanted), self._contract
        scores = pl.zeros(0, eager=True).to_numpy().reshape(0, len(contract.classes) or 1)
        return self.frame(empty, scores if contract.classes else scores.ravel()).schema

    def no_rows(self, wanted: Wanted) -> pl.DataFrame:
        """What reading an input without rows gives."""
        types = {**wanted.optional, **wanted.needed}
        schema = {name: _dtype(kind) for name, kind in types.items()}
        kept = {name: _KEPT[kind] for name, kind in self._plan.keep.items()}
        return pl.DataFrame(schema={**schema, **kept, ROW: pl.Int64()})

    def log(self, lake: Lake, chunk: int, rows: pl.DataFrame, frame: pl.DataFrame) -> int:
        """Add the scores with the features they were made from to the prediction log, once; how many were new."""
        plan, names = self._plan, [*self._contract.names, *self._slices]
        at = pl.col(EVENT_TIME) if EVENT_TIME in plan.keep else pl.lit(plan.as_of, INSTANT).alias(EVENT_TIME)
        key = row_keys(self._key, rows.schema) if self._keyed else pl.lit("").alias("row_key")
        features = [pl.col(name) for name in dict.fromkeys(names) if name in rows.columns]
        taken = {EVENT_TIME, "row_key", "score", "version", "served_at"}
        logged = rows.select(at, key, *(one for one in features if one.meta.output_name() not in taken)).with_columns(
            frame["score"],
            pl.lit(plan.version, pl.Int64).alias("version"),
            pl.lit(plan.scored_at, INSTANT).alias("served_at"),
            *([frame[PREDICTED]] if PREDICTED in frame.columns else []),
        )
        return log_batch(lake, logged, batch=batch_name(plan.job, chunk), features=[*names, PREDICTED])


def score_columns(contract: Contract, scores: Scores) -> list[pl.Series]:
    """What a frame gains by its scores: `score`, and with classes `predicted` and `score_<class>` of each."""
    if not contract.classes:
        return [pl.Series("score", scores, pl.Float64)]
    names = pl.Series(contract.classes, dtype=pl.String)
    best = scores.argmax(axis=1)
    return [
        pl.Series("score", scores.max(axis=1, initial=0.0), pl.Float64),
        names.gather(best).alias(PREDICTED),
        *(pl.Series(f"score_{name}", scores[:, place], pl.Float64) for place, name in enumerate(contract.classes)),
    ]


def _dtype(kind: ColumnType) -> Any:
    return pl.List(pl.Float64()) if isinstance(kind, Numbers) else _TYPES[kind]
