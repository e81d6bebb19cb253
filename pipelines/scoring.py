"""The scoring stage: every row of a stretch of time, scored by the champion that served at its own instant, and logged.

Features are joined as of each row's own prediction instant, so a replay of the past gives what the online endpoint
would have answered then. Of a model of K classes `score` is the probability of the most probable class and `predicted`
that class; the output file also has the probability of each, a column `score_<class>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from features.training_set import historical_features, population_rows
from millrace.bundle import Bundle, open_bundle
from millrace.engine import open_engine
from millrace.errors import MillraceError, NoChampionError, NoDataError
from millrace.keys import public_key
from millrace.prediction_log import PREDICTED, log_batch, row_keys
from millrace.registry import champion
from millrace.source import EVENT_TIME, KNOWN_AT
from pipelines.workspace import Workspace
from serving.batch.output import score_columns
from serving.batch.score import score_frame


@dataclass(frozen=True, slots=True)
class Scored:
    """What one scoring did: `rows` of the population, of which `logged` were new to the prediction log."""

    start: datetime
    end: datetime
    rows: int
    logged: int
    versions: tuple[int, ...]
    output: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


SHADOW = "shadow"
"""The lake's table of scores of a version that does not serve, kept for comparison."""


def score(
    ws: Workspace,
    *,
    start: datetime,
    end: datetime,
    as_of: datetime,
    output: Path | None = None,
    shadow: int | None = None,
) -> Scored:
    """Score the rows with prediction instants in [start, end), as known at `as_of`, and log the predictions.

    `shadow` names a version that scores the same rows beside the champion, without serving.
    Raises `NoChampionError` when nothing served at `start`, `NoDataError` when there is no row.
    """
    with ws.run("score", as_of) as detail:
        features = with_features(ws, start=start, end=end, as_of=as_of)
        frame = _scored_by_their_champions(ws, features).with_columns(served_at=pl.lit(as_of))
        versions = tuple(sorted(frame["version"].unique().to_list()))
        batch = f"score:{start.isoformat()}:{end.isoformat()}:{as_of.isoformat()}:{'+'.join(map(str, versions))}"
        logged = log_batch(ws.lake, frame, batch=batch, features=_logged_features(ws, versions))
        if output is not None:
            _write_aside(frame, output)
        done = Scored(start, end, frame.height, logged, versions, str(output) if output else None)
        if shadow is not None:
            _log_shadow(ws, score_with(ws, features, shadow), as_of=as_of, batch=f"shadow:{batch}")
        detail.update(rows=done.rows, logged=logged, versions=list(versions))
    return done


def with_features(ws: Workspace, *, start: datetime, end: datetime, as_of: datetime) -> pl.DataFrame:
    """The population's rows with prediction instants in [start, end), with `row_key` and features as of each."""
    rows = population_rows(ws.use_case, ws.lake, since=start, until=end, as_of=as_of)
    if rows.is_empty():
        raise NoDataError(
            f"There is nothing to score from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC.",
            looked=f"The source {ws.use_case.population.source.name!r} has no row there known by {as_of:%Y-%m-%d}.",
            todo=f"Ingest first: millrace ingest {ws.use_case.name} --as-of {as_of:%Y-%m-%d}.",
        )
    key = ws.use_case.population.source.key
    return historical_features(ws.use_case, ws.settings, rows).with_columns(row_keys(key, rows.schema))


def score_with(ws: Workspace, frame: pl.DataFrame, version: int) -> pl.DataFrame:
    """`frame` with the columns `version` and `score` of one registered version; it needs that model's features.

    A model of classes adds `predicted` and `score_<class>` for each of them.
    """
    bundle = bundle_of(ws, version)
    scores = score_frame(bundle.contract, open_engine(bundle, threads=ws.settings.threads, settings=ws.settings), frame)
    return frame.with_columns(pl.lit(version, dtype=pl.Int64).alias("version"), *score_columns(bundle.contract, scores))


def bundle_of(ws: Workspace, version: int) -> Bundle:
    """The verified bundle of a registered version."""
    row = ws.db.model(ws.use_case.name, version)
    if row is None:
        raise MillraceError(
            f"{ws.use_case.name} has no version {version}.",
            todo=f"See what there is: millrace status {ws.use_case.name}.",
        )
    return open_bundle(Path(row.bundle), public_key=public_key(ws.settings))


def _scored_by_their_champions(ws: Workspace, frame: pl.DataFrame) -> pl.DataFrame:
    """Each row scored by the version that served at its `event_time`, in the frame's order."""
    champion(ws.db, ws.use_case.name)
    served = ws.db.champions(ws.use_case.name)
    before = frame.filter(pl.col(EVENT_TIME) < served[0][0]).height
    if before:
        raise NoChampionError(
            f"{before:,} of {frame.height:,} rows were to be predicted before {ws.use_case.name} had a champion.",
            looked=f"The first one serves since {served[0][0]:%Y-%m-%d %H:%M} UTC.",
            todo="Choose a later --from.",
        )
    parts = [
        score_with(ws, part, version)
        for version, part in zip([v for _, v in served], _split(frame, [since for since, _ in served]), strict=True)
        if part.height
    ]
    # versions whose classes differ: what one of them lacks is null in its rows
    return pl.concat(parts, how="diagonal").sort("row_order").drop("row_order")


def _split(frame: pl.DataFrame, since: Sequence[datetime]) -> list[pl.DataFrame]:
    """The frame cut at the instants: part i has the rows from `since[i]` until the next one's."""
    numbered = frame.with_row_index("row_order")
    ends = [*since[1:], None]
    return [
        numbered.filter((pl.col(EVENT_TIME) >= first) & (pl.col(EVENT_TIME) < last if last else pl.lit(value=True)))
        for first, last in zip(since, ends, strict=True)
    ]


def _logged_features(ws: Workspace, versions: Sequence[int]) -> list[str]:
    """What the prediction log keeps of a row: the models' inputs, the columns that quality is sliced by, and the
    predicted class when there are classes."""
    contracts = [bundle_of(ws, version).contract for version in versions]
    names = [name for contract in contracts for name in contract.names]
    classes = [PREDICTED] if any(contract.classes for contract in contracts) else []
    return list(dict.fromkeys([*names, *ws.use_case.slices, *classes]))


def _log_shadow(ws: Workspace, frame: pl.DataFrame, *, as_of: datetime, batch: str) -> None:
    instant = pl.lit(as_of).cast(pl.Datetime("us", "UTC"))
    classes = [PREDICTED] if ws.use_case.label.classes and PREDICTED in frame.columns else []
    kept = frame.select("row_key", EVENT_TIME, instant.alias(KNOWN_AT), "version", "score", *classes)
    ws.lake.append(SHADOW, kept, batch=batch)


def _write_aside(frame: pl.DataFrame, output: Path) -> None:
    """Write the Parquet file aside and rename it, so that a reader never sees half of it."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        aside = output.with_name(f".{output.name}.part")
        frame.write_parquet(aside)
        aside.rename(output)
    except OSError as error:
        raise MillraceError(
            f"The scores cannot be written to {output}: {error.strerror or error}.",
            todo="They are in the prediction log; choose another --output and score again.",
        ) from error
