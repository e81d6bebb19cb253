"""The data stages: raw rows into the lake, feature tables, fresh values into the online store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from features.materialize import Materialized
from features.push import Pushed
from features.push import push as push_rows
from features.repo import apply
from features.repo import materialize as materialize_views
from features.tables import TableBuild, build_tables
from millrace.errors import NoDataError, UseCaseError
from millrace.source import Source
from pipelines.ingest import BEGINNING, IngestResult, ingest_source, read_rows
from pipelines.ingest.quarantine import Replayed, replay
from pipelines.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one ingest did: a line a source, a line a feature table."""

    as_of: datetime
    sources: tuple[IngestResult, ...]
    tables: tuple[TableBuild, ...]

    @property
    def rows(self) -> int:
        """Rows that came from the sources."""
        return sum(source.rows for source in self.sources)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; batch names, which are digests, are left to the lake's log."""
        sources = [
            {name: value for name, value in asdict(source).items() if name != "batch"} for source in self.sources
        ]
        return {"as_of": self.as_of, "rows": self.rows, "sources": sources, "tables": [asdict(t) for t in self.tables]}


@dataclass(frozen=True, slots=True)
class Fresh:
    """What one materialization did: a line a view."""

    as_of: datetime
    views: tuple[Materialized, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"as_of": self.as_of, "views": [asdict(view) for view in self.views]}


def ingest(ws: Workspace, *, as_of: datetime, since: datetime | None = None, accept: Sequence[str] = ()) -> Ingested:
    """Bring every source's rows known by `as_of` into the lake and build the feature tables from them.

    `accept` names sources whose batch is taken though it is not like the ones before it. Raises `NoDataError`, leaving
    nothing behind, when no row of the population was known by then, and `SourceError` when a source's batch is stopped;
    the sources before it stay ingested.
    """
    accepted = {source.name for source in chosen(ws, accept)}
    with ws.run("ingest", as_of) as detail:
        results = tuple(
            ingest_source(source, ws.lake, ws.settings, since=since, as_of=as_of, accept=source.name in accepted)
            for source in _ordered(ws, as_of)
        )
        tables = tuple(build_tables(ws.use_case, ws.lake, as_of=as_of))
        done = Ingested(as_of, results, tables)
        detail.update(rows=done.rows, sources={result.source: result.rows for result in results})
    return done


def materialize(ws: Workspace, *, as_of: datetime) -> Fresh:
    """Register the Feast objects if they changed and bring the newest values known by `as_of` into the online store.

    Without a feature store there is nothing to do, and no run is recorded.
    """
    if ws.use_case.feature_repo is None:
        return Fresh(as_of, ())
    with ws.run("materialize", as_of) as detail:
        apply(ws.use_case, ws.settings)
        views = tuple(materialize_views(ws.use_case, ws.settings, as_of=as_of))
        detail.update(views={view.view: _view_detail(view) for view in views})
    return Fresh(as_of, views)


def push(ws: Workspace, view: str, rows: Sequence[Mapping[str, Any]] | Path, *, as_of: datetime) -> Pushed:
    """Write rows of a feature view, or a CSV or Parquet file of them, known at `as_of` unless they say otherwise."""
    with ws.run("push", as_of) as detail:
        done = push_rows(ws.use_case, ws.settings, view, rows, now=as_of)
        detail.update(asdict(done))
    return done


def replay_quarantine(
    ws: Workspace, sources: Sequence[str] = (), *, batch: str = "", as_of: datetime
) -> list[Replayed]:
    """Bring the rows in quarantine that satisfy today's schemas into the raw tables; of all sources, or of some.

    The next ingest builds the feature tables that they touch.
    """
    with ws.run("quarantine replay", as_of) as detail:
        done = replay(ws.lake, chosen(ws, sources) or ws.use_case.sources, batch=batch, as_of=as_of)
        detail.update(passed=sum(line.passed for line in done), kept=sum(line.kept for line in done))
    return done


def chosen(ws: Workspace, names: Sequence[str]) -> tuple[Source, ...]:
    """The use case's sources of these names; `UseCaseError` for a name that none has."""
    sources = {source.name: source for source in ws.use_case.sources}
    unknown = [name for name in names if name not in sources]
    if unknown:
        raise UseCaseError(
            f"{ws.use_case.name} has no source {', '.join(map(repr, unknown))}.",
            looked=f"It declares {', '.join(sources)}.",
            todo="Name one of these.",
        )
    return tuple(sources[name] for name in dict.fromkeys(names))


def _view_detail(view: Materialized) -> dict[str, Any]:
    return {"entities": view.entities, "newest": view.newest.isoformat() if view.newest else None}


def _ordered(ws: Workspace, as_of: datetime) -> list[Any]:
    """The sources, the population's first, after a look that it has rows: else nothing shall be half-ingested."""
    population = ws.use_case.population.source
    first = not ws.lake.exists(f"raw/{population.name}")
    if first and read_rows(population, ws.settings, BEGINNING, as_of).is_empty():
        raise NoDataError(
            f"Nothing of {ws.use_case.name} was known by {as_of:%Y-%m-%d %H:%M} UTC.",
            looked=f"Its source {population.name!r} has no row that early.",
            todo="Choose a later --as-of.",
        )
    return [population, *(source for source in ws.use_case.sources if source is not population)]
