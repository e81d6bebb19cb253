"""Where a use case stands, and single predictions in this process: behind `millrace status` and `millrace predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from features.online import open_reader
from features.plan import ReadPlan
from millrace.engine import open_engine
from pipelines.scoring import bundle_of, champion_version
from pipelines.workspace import Workspace
from serving.batch.score import score_rows


def status(ws: Workspace, *, as_of: datetime) -> dict[str, Any]:
    """Champion and verdict, last ingest, freshness of the views at `as_of`, last window and decision."""
    name = ws.use_case.name
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
        shown["last_window"] |= {name: value for name, value in last.metrics.items() if name != "first_seen"}
    if decisions:
        shown["last_decision"] = f"{decisions[-1].action} ({decisions[-1].as_of:%Y-%m-%d}): {decisions[-1].reason}"
    return shown


def predict(ws: Workspace, rows: Sequence[Mapping[str, Any]], *, at: datetime) -> dict[str, Any]:
    """Score rows given by entity keys and request inputs with the champion, as the server would; nothing is logged."""
    version = champion_version(ws)
    bundle = bundle_of(ws, version)
    contract = bundle.contract
    plan = ReadPlan.from_dict(contract.read_plan)
    reader = open_reader(plan, ws.use_case, ws.settings)
    try:
        found = reader.read([_with_instants(row, plan) for row in rows], at=at)
    finally:
        reader.close()
    order = [plan.features.index(name) for name in contract.names]
    values = [[row[position] for position in order] for row in found.values]
    scores = score_rows(contract, open_engine(bundle, threads=ws.settings.threads), values)
    predictions = [
        {"score": float(score), "missing": list(missing)} for score, missing in zip(scores, found.missing, strict=True)
    ]
    return {"use_case": ws.use_case.name, "version": version, "at": at, "predictions": predictions}


def _with_instants(row: Mapping[str, Any], plan: ReadPlan) -> dict[str, Any]:
    """Times come as text in JSON; the plan says which inputs are instants."""
    instants = {name for name, dtype in plan.request_inputs.items() if dtype == "UnixTimestamp"}
    return {
        name: datetime.fromisoformat(value) if name in instants and isinstance(value, str) else value
        for name, value in row.items()
    }


def _freshness(view: str, seen: Mapping[str, Any], as_of: datetime) -> dict[str, Any]:
    newest = datetime.fromisoformat(seen["newest"]) if seen.get("newest") else None
    hours = (as_of - newest).total_seconds() / 3600 if newest else None
    return {"view": view, "newest": newest, "age_hours": hours, "entities_written": seen.get("entities")}
