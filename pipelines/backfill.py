"""Backfill: a stretch of the past into the lake, a partition at a time, and once at its end features and online values.

A partition is a day, week or month of one source, ingested as the schedule would have done it at its end. The
platform's database remembers each that is done, so a backfill that died or was stopped goes on where it was when it is
typed again; exactly-once ingestion makes a half-done partition whole. Knows nothing of Prefect: progress is told to
whoever watches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any, Literal

from features.tables import TableBuild, build_tables
from millrace.errors import MillraceError, SourceError, UseCaseError
from millrace.source import Source
from pipelines.data import Fresh, materialize
from pipelines.ingest import IngestResult, ingest_source
from pipelines.progress import Progress
from pipelines.workspace import Workspace

By = Literal["day", "week", "month"]
_KIND = "backfill"
"""What the database calls the run of one partition."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What a backfill did with one source: partitions ingested now and found done, and the rows of the former."""

    source: str
    partitions: int
    skipped: int
    rows: int
    written: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did: a line a source, then the feature tables and views that were brought up to `as_of`.

    `waits_for` names sources without a row so far whose rows a feature table needs; no table was built then.
    """

    start: datetime
    until: datetime
    as_of: datetime
    sources: tuple[Filled, ...]
    waits_for: tuple[str, ...]
    tables: tuple[TableBuild, ...]
    fresh: Fresh | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "from": self.start,
            "until": self.until,
            "as_of": self.as_of,
            "partitions": sum(source.partitions for source in self.sources),
            "skipped": sum(source.skipped for source in self.sources),
            "rows": sum(source.rows for source in self.sources),
            "waits_for": list(self.waits_for),
            "sources": [asdict(source) for source in self.sources],
            "tables": [asdict(table) for table in self.tables],
            "views": [asdict(view) for view in self.fresh.views] if self.fresh else [],
        }


def backfill(
    ws: Workspace,
    *,
    start: datetime,
    until: datetime,
    by: By,
    progress: Progress,
    only: Collection[str] = (),
    again: bool = False,
    accept: Collection[str] = (),
) -> Backfilled:
    """Ingest what became known in (start, until], a partition at a time, then build tables and materialize once.

    `only` names the sources (none: all), `again` does partitions that are done once more, `accept` names the sources
    whose batches may differ from those before them. Raises `BusyError` while another backfill of this use case runs,
    `UseCaseError` for an unknown source, `SourceError`, naming the partition, when one cannot be ingested; those before
    it are kept.
    """
    _check_names(ws, (*only, *accept))
    spans, sources = partitions(start, until, by), [s for s in ws.use_case.sources if not only or s.name in only]
    with ws.db.lease(f"{_KIND} {ws.use_case.name}"):
        done = set() if again else _done(ws)
        progress.start(f"Backfill {ws.use_case.name} by {by}", len(spans) * len(sources))
        try:
            filled = _fill(ws, spans, sources, done, accept, progress)
        except BaseException:  # an interrupt ends the bar too
            progress.done("stopped", failed=True)
            raise
        progress.done(f"{sum(source.rows for source in filled):,} rows")
        return _finish(ws, start, until, filled, progress)


def partitions(start: datetime, until: datetime, by: By) -> list[tuple[datetime, datetime]]:
    """The stretch (start, until] cut at every midnight (UTC), Monday or first of a month; the ends may be shorter.

    The cuts do not depend on the stretch, so that a longer one finds what a shorter one did. Raises `MillraceError`
    when there is nothing between the two.
    """
    if until <= start:
        raise MillraceError(
            f"There is nothing to backfill from {start:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}.",
            todo="Give a --from before --until.",
        )
    cuts = [start.astimezone(UTC)]
    while cuts[-1] < until:
        cuts.append(min(_next(cuts[-1], by), until.astimezone(UTC)))
    return list(pairwise(cuts))


def _next(at: datetime, by: By) -> datetime:
    """The first midnight, Monday or first of a month after an instant."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if by == "day":
        return midnight + timedelta(days=1)
    if by == "week":
        return midnight + timedelta(days=7 - midnight.weekday())
    return (midnight.replace(day=1) + timedelta(days=31)).replace(day=1)


def _check_names(ws: Workspace, names: Collection[str]) -> None:
    known = [source.name for source in ws.use_case.sources]
    if unknown := sorted(set(names) - set(known)):
        raise UseCaseError(
            f"The use case {ws.use_case.name!r} has no source {', '.join(unknown)}.",
            looked=f"It has {', '.join(known)}.",
            todo="Correct --source or --accept; without --source it is all of them.",
        )


def _done(ws: Workspace) -> set[tuple[str, str, str]]:
    """The partitions (source, from, until) that are done, as far as their rows are still in the lake."""
    runs = [run.detail for run in ws.db.runs(ws.use_case.name, _KIND) if run.state == "done"]
    there = {source.name for source in ws.use_case.sources if ws.lake.exists(f"raw/{source.name}")}
    return {
        (detail["source"], detail["from"], detail["until"])
        for detail in runs
        if detail["source"] in there or not detail["rows"]
    }


def _fill(
    ws: Workspace,
    spans: Sequence[tuple[datetime, datetime]],
    sources: Sequence[Source],
    done: Collection[tuple[str, str, str]],
    accept: Collection[str],
    progress: Progress,
) -> list[Filled]:
    """Every source's partition of a span before the next span, so that the lake grows as it did in life."""
    filled = {source.name: Filled(source.name, 0, 0, 0, 0, 0) for source in sources}
    for span, source in product(spans, sources):
        so_far = filled[source.name]
        if (source.name, *(at.isoformat() for at in span)) in done:
            filled[source.name] = replace(so_far, skipped=so_far.skipped + 1)
            progress.advance(f"{source.name} {span[1]:%Y-%m-%d}: done before")
            continue
        result = _ingest(ws, source, span, accept=source.name in accept)
        filled[source.name] = replace(
            so_far,
            partitions=so_far.partitions + 1,
            rows=so_far.rows + result.rows,
            written=so_far.written + result.written,
            quarantined=so_far.quarantined + result.quarantined,
        )
        progress.advance(f"{source.name} {span[1]:%Y-%m-%d}: {result.rows:,} rows")
    return list(filled.values())


def _ingest(ws: Workspace, source: Source, span: tuple[datetime, datetime], *, accept: bool) -> IngestResult:
    """One partition; the database knows that it is done only after the lake has it."""
    first, last = span
    with ws.run(_KIND, last) as detail:
        try:
            result = ingest_source(source, ws.lake, ws.settings, since=first, as_of=last, accept=accept)
        except SourceError as error:
            raise SourceError(
                error.what,
                looked=f"{error.looked} The partition is that of {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}.",
                todo=f"{error.todo} Then type the same command again: it goes on from here.",
            ) from error
        detail |= {"source": source.name, "from": first.isoformat(), "until": last.isoformat()}
        detail |= {"rows": result.rows, "written": result.written, "quarantined": result.quarantined}
    return result


def _finish(ws: Workspace, start: datetime, until: datetime, filled: list[Filled], progress: Progress) -> Backfilled:
    """Features and online values, once, for the moment that the lake has reached."""
    for source in filled:
        _reach(ws, source.source, start, until)
    cursors = [ws.lake.cursor(f"raw/{source.name}") for source in ws.use_case.sources]
    as_of = max([until, *(cursor for cursor in cursors if cursor)])
    needed = {source.name for table in ws.use_case.feature_tables for source in table.reads}
    waits_for = tuple(sorted(name for name in needed if not ws.lake.exists(f"raw/{name}")))
    if waits_for:
        return Backfilled(start, until, as_of, tuple(filled), waits_for, (), None)
    progress.start("Build features and bring them online", 2)
    with ws.run("ingest", as_of) as detail:
        tables = tuple(build_tables(ws.use_case, ws.lake, as_of=as_of))
        rows = {source.source: source.rows for source in filled}
        detail.update(rows=sum(rows.values()), sources=rows)
    progress.advance(f"{len(tables)} tables")
    fresh = materialize(ws, as_of=as_of)
    progress.done(f"{sum(table.rows for table in tables):,} rows of features")
    return Backfilled(start, until, as_of, tuple(filled), (), tables, fresh)


def _reach(ws: Workspace, source: str, start: datetime, until: datetime) -> None:
    """Let the next ingest continue at `until` also where the last partitions were empty (they moved no cursor)."""
    table = f"raw/{source}"
    cursor = ws.lake.cursor(table)
    if cursor is not None and start <= cursor < until:
        about = {"source": source, "since": cursor.isoformat(), "until": until.isoformat()}
        ws.lake.append(table, ws.lake.scan(table).head(0).collect(), cursor=until, about=about)
