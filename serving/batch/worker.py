"""One worker of a batch scoring job: opened once from the plan, it does any chunk from its rows to the written scores.

A chunk is read, checked, joined, scored, and written to the output, the reject table and the prediction log, each of
which takes it once however often it comes. The ledger is not its business: whoever called it commits what it answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.plan import ReadPlan
from millrace.bundle import open_bundle
from millrace.contract import Contract
from millrace.engine import Engine, open_engine
from millrace.keys import public_key
from millrace.lake import Lake, open_lake
from millrace.loader import load_use_case
from millrace.prediction_log import TABLE as PREDICTIONS
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.batch.checking import Wanted, judge
from serving.batch.inputs import ROW, read_chunk
from serving.batch.joining import Joiner, open_views
from serving.batch.output import Output
from serving.batch.plan import Choice, Chunk, ChunkDone, JobPlan
from serving.batch.rejects import REASON, Rejects
from serving.batch.rejects import TABLE as REJECTED
from serving.batch.score import Scores, engine_scores
from serving.batch.sinks import Sink, patiently
from serving.batch.wanted import columns_to_read, in_stretch, wanted_columns, within


@dataclass(frozen=True, slots=True)
class Opened:
    """A job's model and use case, verified and loaded."""

    use_case: UseCase
    contract: Contract
    engine: Engine
    lake: Lake


def open_model(plan: JobPlan, choice: Choice, settings: Settings) -> Opened:
    """The plan's use case, and its version's verified bundle with an engine of the chosen number of threads."""
    use_case = load_use_case(plan.use_case, settings)
    bundle = open_bundle(Path(plan.bundle), public_key=public_key(settings))
    engine = open_engine(bundle, threads=choice.threads, settings=settings)
    return Opened(use_case, bundle.contract, engine, open_lake(settings, use_case.name))


def open_worker(plan: JobPlan, choice: Choice, settings: Settings) -> Worker:
    """A worker for any of the plan's chunks; threads may share it.

    Raises `BundleError` for a bundle that is not what was signed, `UseCaseError` when the use case cannot be loaded.
    """
    return Worker(plan, choice, open_model(plan, choice, settings), settings)


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A chunk that is scored and not yet written: the rows with their features, what the output gets of them, and those
    that could not be scored with their reasons."""

    chunk: Chunk
    rows: pl.DataFrame
    frame: pl.DataFrame
    bad: list[pl.DataFrame]
    digest: str
    seconds: float


class Worker:
    """Does chunks of one job. `score` may be called from several threads at once, `write` from one at a time."""

    def __init__(self, plan: JobPlan, choice: Choice, opened: Opened, settings: Settings) -> None:
        self._plan, self._choice, self._opened = plan, choice, opened
        read_plan = ReadPlan.from_dict(opened.contract.read_plan) if opened.contract.read_plan else None
        self._wanted: Wanted = wanted_columns(plan, opened.contract, read_plan, opened.use_case)
        self._join: Joiner | None = None
        if plan.join != "given" and read_plan is not None:
            views = open_views(read_plan, Path(plan.folder) / "views")
            self._join = Joiner(read_plan, opened.use_case, views, plan.join, plan.as_of)
        self._output = Output(plan, opened.contract, opened.use_case)
        self._sink: Sink = self._output.sink(opened.lake, settings)
        self._sink.check(self._output.schema(self._wanted))
        self._rejects = Rejects(plan, opened.lake)

    def close(self) -> None:
        """Release what the output holds."""
        self._sink.close()

    def run(self, chunk: Chunk) -> ChunkDone:
        """Score a chunk and write all that comes of it."""
        return self.write(self.score(chunk))

    def score(self, chunk: Chunk) -> ScoredChunk:
        """Read, check, join and predict a chunk; nothing is written.

        Raises `ScoreJobError` when the input changed under way.
        """
        began, contract = time.monotonic(), self._opened.contract
        rows, reasons = self._judged(chunk)
        good = rows if reasons is None else rows.filter(reasons.is_null())
        joined = self._join(good) if self._join else good
        scores = engine_scores(contract, self._opened.engine, joined, self._choice.batch_rows)
        finite = _finite(scores)
        bad = [] if reasons is None else [rows.with_columns(reasons.alias(REASON)).filter(reasons.is_not_null())]
        if not finite.all():
            bad.append(good.filter(~finite).with_columns(pl.lit("the model gives no number").alias(REASON)))
            joined, scores = joined.filter(finite), scores[finite]
        frame = self._output.frame(joined, scores)
        digest = self._output.digest(frame, joined[ROW])
        return ScoredChunk(chunk, joined, frame, bad, digest, time.monotonic() - began)

    def write(self, scored: ScoredChunk) -> ChunkDone:
        """Write what came of a chunk to the output, the reject table and the prediction log, each once.

        Raises `ScoreJobError` when one of them stays away or is full.
        """
        began, index, frame, lake = time.monotonic(), scored.chunk.index, scored.frame, self._opened.lake
        counts: Mapping[str, int] = {}
        patiently(lambda: self._sink.write(index, frame), what=f"The output {self._plan.output}")
        if scored.bad:
            counts = patiently(lambda: self._rejects.write(index, scored.bad), what=f"The table {REJECTED}")
        if self._plan.log and frame.height:
            log = self._output.log
            patiently(lambda: log(lake, index, scored.rows, frame), what=f"The table {PREDICTIONS}")
        rejected = sum(part.height for part in scored.bad)
        seconds = scored.seconds + time.monotonic() - began
        return ChunkDone(index, frame.height + rejected, frame.height, rejected, scored.digest, seconds, dict(counts))

    def _judged(self, chunk: Chunk) -> tuple[pl.DataFrame, pl.Series | None]:
        """The chunk's rows within the job's stretch of time, and why those that cannot be scored cannot."""
        plan, lake = self._plan, self._opened.lake
        pieces = read_chunk(plan, lake, chunk, lambda names: columns_to_read(plan, self._wanted, names))
        if not pieces:
            return self._output.no_rows(self._wanted), None
        stretch, judged = in_stretch(plan), []
        for piece in pieces:
            typed, reasons = judge(within(plan, piece), self._wanted)
            why = pl.lit(None, pl.String) if reasons is None else reasons
            told = typed.with_columns(why.alias(REASON))
            judged.append(told if stretch is None else told.filter(stretch))
        rows = pl.concat(judged, how="diagonal_relaxed")
        said = rows.drop_in_place(REASON)
        return rows, None if said.null_count() == len(said) else said


def _finite(scores: Scores) -> NDArray[np.bool_]:
    """Of each row whether the model gives it a number, or one for each class."""
    finite: NDArray[np.bool_] = np.isfinite(scores).reshape(len(scores), scores.shape[1] if scores.ndim > 1 else 1)
    every: NDArray[np.bool_] = np.logical_and.reduce(finite, axis=1)
    return every
