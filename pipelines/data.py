"""The data stages: raw rows into the lake, feature tables, fresh values into the online store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from features.materialize import Materialized
from features.repo import apply
from features.repo import materialize as materialize_views
from features.tables import TableBuild, build_tables
from millrace.errors import NoDataError
from pipelines.ingest import BEGINNING, IngestResult, ingest_source, read_rows
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


def ingest(ws: Workspace, *, as_of: datetime, since: datetime | None = None) -> Ingested:
    """Bring every source's rows known by `as_of` into the lake and build the feature tables from them.

    Raises `NoDataError`, leaving nothing behind, when no row of the population was known by then.
    """
    with ws.run("ingest", as_of) as detail:
        results = tuple(
            ingest_source(source, ws.lake, ws.settings, since=since, as_of=as_of) for source in _ordered(ws, as_of)
        )
        tables = tuple(build_tables(ws.use_case, ws.lake, as_of=as_of))
        done = Ingested(as_of, results, tables)
        detail.update(rows=done.rows, sources={result.source: result.rows for result in results})
    return done


def materialize(ws: Workspace, *, as_of: datetime) -> Fresh:
    """Register the Feast objects if they changed and bring the newest values known by `as_of` into the online store."""
    with ws.run("materialize", as_of) as detail:
        apply(ws.use_case, ws.settings)
        views = tuple(materialize_views(ws.use_case, ws.settings, as_of=as_of))
        detail.update(views={view.view: _view_detail(view) for view in views})
    return Fresh(as_of, views)


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
