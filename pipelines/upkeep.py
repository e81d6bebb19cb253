"""The care of a use case's lake: what lies there, is it whole, fewer files, fewer old versions.

A version that a registered model was trained on is never vacuumed: each model's bundle says which those are. What a
check or a vacuum does is `millrace.lake.care`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from millrace.bundle import open_bundle
from millrace.errors import BundleError, LakeError
from millrace.keys import public_key
from millrace.lake.care import RETENTION
from millrace.lake.care import compact as compact_table
from millrace.lake.care import vacuum as vacuum_table
from millrace.lake.care import verify as verify_table
from millrace.lake.files import TableFiles
from millrace.lake.log import Version
from millrace.source import EVENT_TIME
from pipelines.workspace import Workspace

Trained = Mapping[str, Mapping[int, list[int]]]
"""Of each table, the versions that models were trained on, and those models' versions."""


class Progress(Protocol):
    """Who hears how far long work is."""

    def start(self, what: str, total: int = 1) -> None:
        """A piece of work of so many steps begins."""

    def advance(self, note: str = "") -> None:
        """One step of it is done."""

    def done(self, note: str = "") -> None:
        """It is over."""


def trained_on(ws: Workspace) -> Trained:
    """The lake versions that the registered models were trained on.

    Raises `LakeError` when a model's bundle cannot be read: nobody then knows what to protect.
    """
    found: dict[str, dict[int, list[int]]] = {}
    for row in ws.db.models(ws.use_case.name):
        try:
            lineage = open_bundle(Path(row.bundle), public_key=public_key(ws.settings)).contract.lineage
        except (BundleError, OSError) as error:
            raise LakeError(
                f"The bundle of model version {row.version} cannot be read, so nobody knows what it was trained on.",
                looked=str(error),
                todo="Restore its folder; no version of the lake was deleted.",
            ) from error
        for table, version in dict(lineage.get("lake_versions", {})).items():
            found.setdefault(table, {}).setdefault(int(version), []).append(row.version)
    return found


def tables(ws: Workspace) -> dict[str, Any]:
    """A line a table: version, rows, files, their size, what only earlier versions have, and the last commit."""
    return {"lake": ws.lake.root, "tables": [_table(ws, name) for name in ws.lake.tables()]}


def history(ws: Workspace, table: str, *, limit: int) -> dict[str, Any]:
    """The last `limit` commits to a table, the newest first, and whether their versions can still be read."""
    commits, present = ws.lake.history(table), TableFiles(ws.lake.uri(table), ws.lake.options).sizes().keys()
    trained = trained_on(ws).get(table, {})
    shown = [_commit(version) | _state(ws, table, version, present, trained) for version in commits[:limit]]
    return {"table": table, "versions": len(commits), "commits": shown}


def show(ws: Workspace, table: str, *, version: int | None, at: datetime | None, limit: int) -> dict[str, Any]:
    """The newest `limit` rows of a table by event time, as of a version or a moment (default: the newest version)."""
    scanned = ws.lake.scan(table, version=version, at=at)
    columns = scanned.collect_schema().names()
    by_time = scanned.sort(EVENT_TIME, descending=True) if EVENT_TIME in columns else scanned
    rows, total = pl.collect_all([by_time.head(limit), scanned.select(pl.len())])
    return {
        "table": table,
        "rows": total.item(),
        "newest": [{name: plain(value) for name, value in row.items()} for row in rows.to_dicts()],
    }


def verify(ws: Workspace, table: str | None, *, progress: Progress) -> dict[str, Any]:
    """Compare every table (or one) with what was written; `faults` is empty when all is whole."""
    lines, faults, chosen = [], [], _chosen(ws, table)
    progress.start("verify", sum(_steps(ws, name) for name in chosen))
    for name in chosen:
        found = verify_table(ws.lake, name, step=progress.advance)
        faults += [{"table": name, "fault": fault} for fault in found.faults]
        fields = ("table", "files", "sealed", "batches", "unproven", "beyond")
        lines.append({field: getattr(found, field) for field in fields} | {"whole": found.ok})
    progress.done("whole" if not faults else f"{len(faults)} faults")
    return {"whole": not faults, "tables": lines, "faults": faults}


def compact(ws: Workspace, table: str | None, *, as_of: datetime, progress: Progress) -> dict[str, Any]:
    """Put every table (or one) into as few files as it needs."""
    with ws.run("compact", as_of) as detail:
        lines, chosen = [], _chosen(ws, table)
        progress.start("compact", len(chosen))
        for name in chosen:
            before = len(ws.lake.files(name))
            done = compact_table(ws.lake, name)
            after = len(ws.lake.files(name))
            lines.append({"table": name, "version": done.version, "files_before": before, "files": after})
            progress.advance(name)
        progress.done()
        detail.update(tables=lines)
    return {"tables": lines}


def vacuum(
    ws: Workspace,
    table: str | None,
    *,
    as_of: datetime,
    progress: Progress,
    older_than: timedelta = RETENTION,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Delete the files of every table (or one) that neither its newest version, nor one replaced less than
    `older_than` ago, nor one that a registered model was trained on needs."""
    with ws.run("vacuum", as_of) as detail:
        trained, lines, chosen = trained_on(ws), [], _chosen(ws, table)
        progress.start("vacuum", len(chosen))
        for name in chosen:
            done = vacuum_table(
                ws.lake, name, keep=trained.get(name, {}).keys(), older_than=older_than, dry_run=dry_run
            )
            kept = [f"{version} (model {_models(trained[name][version])})" for version in done.kept]
            lines.append({"table": name, "files": done.files, "mb": done.bytes / 1e6, "kept_versions": kept})
            progress.advance(name)
        progress.done()
        detail.update(tables=lines, dry_run=dry_run)
    return {"dry_run": dry_run, "older_than_days": older_than / timedelta(days=1), "tables": lines}


def _chosen(ws: Workspace, table: str | None) -> list[str]:
    if table is None:
        return ws.lake.tables()
    ws.lake.version(table)  # which says what there is, if this is not
    return [table]


def _steps(ws: Workspace, table: str) -> int:
    return len(ws.lake.history(table)) + len(TableFiles(ws.lake.uri(table), ws.lake.options).sizes())


def _table(ws: Workspace, name: str) -> dict[str, Any]:
    opened, last = ws.lake.delta(name), ws.lake.history(name)[0]
    sizes, files = TableFiles(ws.lake.uri(name), ws.lake.options).sizes(), ws.lake.files(name)
    return {
        "table": name,
        "version": last.number,
        "rows": int(opened.count()),
        "files": len(files),
        "mb": sum(size for path, size in sizes.items() if path in files) / 1e6,
        "older_mb": sum(size for path, size in sizes.items() if path not in files) / 1e6,
        "last": f"{last.at:%Y-%m-%d %H:%M}",
    }


def _commit(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "at": version.at,
        "did": version.did,
        "rows": version.wrote.rows if version.wrote else None,
        "batch": version.batch,
    }


def _state(
    ws: Workspace, table: str, version: Version, present: Any, trained: Mapping[int, list[int]]
) -> dict[str, Any]:
    readable = ws.lake.files(table, version=version.number) <= present
    return {"readable": readable, "models": _models(trained.get(version.number, []))}


def _models(versions: list[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numbers that are none, and other types, as text."""
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    return value if isinstance(value, bool | int | str | datetime | None) else str(value)
