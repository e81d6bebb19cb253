"""Where a use case stands, and single predictions in this process: behind `millrace status` and `millrace predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from pipelines.workspace import Workspace
from serving.online.model import predict_once


def status(ws: Workspace, *, as_of: datetime) -> dict[str, Any]:
    """Champion and verdict, last ingest, freshness of the views at `as_of`, last window and decision, and what runs."""
    name = ws.use_case.name
    ws.db.lose_dead_runs()
    champion, windows, decisions = ws.db.champion(name), ws.db.windows(name), ws.db.decisions(name)
    ingests, fresh = ws.db.runs(name, "ingest"), ws.db.runs(name, "materialize")
    shown: dict[str, Any] = {"use_case": name, "question": ws.use_case.question}
    if champion is None:
        shown["champion"] = f"none yet; type: millrace train {name}"
    else:
        shown["champion"] = f"version {champion.version}, {champion.candidate}, trained as of {champion.as_of:%Y-%m-%d}"
        shown["budget"] = champion.verdict.get("limits", [])
    shown["last_ingest"] = (
        {"as_of": ingests[0].as_of.isoformat(), "state": ingests[0].state, "rows": ingests[0].detail.get("rows")}
        if ingests
        else f"none yet; type: millrace ingest {name}"
    )
    if fresh:
        shown["views"] = [_freshness(view, seen, as_of) for view, seen in fresh[0].detail.get("views", {}).items()]
    if windows:
        last = windows[-1]
        shown["last_window"] = {"from": last.start.isoformat(), "to": last.end.isoformat(), "rows": last.rows}
        shown["last_window"] |= {
            name: value for name, value in last.metrics.items() if name not in ("first_seen", "watched")
        }
    if decisions:
        shown["last_decision"] = f"{decisions[-1].action} ({decisions[-1].as_of:%Y-%m-%d}): {decisions[-1].reason}"
    running = [run for run in ws.db.running() if run.use_case == name]
    if running:
        shown["running"] = [
            {
                "run": run.id,
                "kind": run.kind,
                "as_of": run.as_of,
                "since": run.started_at,
                "process": f"{run.pid} on {run.host}",
            }
            for run in running
        ]
    return shown


def predict(ws: Workspace, rows: Sequence[Mapping[str, Any]], *, at: datetime) -> dict[str, Any]:
    """What the server would answer for these rows at `at`, with the values used; nothing is logged."""
    answer: dict[str, Any] = msgspec.to_builtins(predict_once(ws.db, ws.use_case, ws.settings, rows, at=at))
    return answer


def _freshness(view: str, seen: Mapping[str, Any], as_of: datetime) -> dict[str, Any]:
    newest = datetime.fromisoformat(seen["newest"]) if seen.get("newest") else None
    hours = (as_of - newest).total_seconds() / 3600 if newest else None
    return {"view": view, "newest": newest, "age_hours": hours, "entities_written": seen.get("entities")}
