"""What the platform decided and why, as it is told a year later: from the database alone, no use case is loaded.

A monitoring pass's decision is also taken again, by today's rules on the evidence and the limits that were stored with
it: either the same comes of it, or the rules have changed since, and both are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from millrace.db import Database, DecisionRow, RunRow
from millrace.errors import MillraceError, NoDataError
from monitoring.decide import decide_again
from pipelines.effects import RESUMED

_FIGURES = (
    "rows",
    "labelled",
    "coverage",
    "promised_log_loss",
    "surprise",
    "score_effect",
    "known_labels",
    "new_labels",
    "growth",
    "champion_version",
    "champion_as_of",
)
"""What was seen, of the stored evidence; all of it is in `evidence`."""


def list_decisions(db: Database, use_case: str, *, everything: bool, limit: int) -> dict[str, Any]:
    """The last decisions of a use case, the newest first; with `everything` also those to do nothing."""
    rows = [row for row in reversed(db.decisions(use_case)) if everything or row.action != "nothing"]
    return {"use_case": use_case, "decisions": [_line(row) for row in rows[:limit]], "older": max(len(rows) - limit, 0)}


def explain(db: Database, number: int) -> dict[str, Any]:
    """Everything about one decision: what was seen, what spoke for and against, what was done, what it gained, and
    whether today's rules would decide alike.

    Raises `NoDataError` when there is no decision of this id.
    """
    row = db.decision(number)
    if row is None:
        raise NoDataError(
            f"There is no decision {number}.",
            looked="It is not in this platform's database.",
            todo="See them with their ids: millrace decisions USE_CASE.",
        )
    evidence = row.evidence
    return {
        "decision": row.id,
        "use_case": row.use_case,
        "as_of": row.as_of,
        "decided_at": row.created_at,
        "window": _window(row),
        "action": row.action,
        "severity": row.severity or None,
        "version": row.version,
        "reason": row.reason,
        "for": list(evidence.get("for", ())),
        "against": list(evidence.get("against", ())),
        "seen": _seen(evidence),
        "measured": _measured(db, row),
        "done": _done(db, row),
        "gain": [_gain(name, row.outcome.get(f"{name}_gain")) for name in ("predicted", "realised") if row.outcome],
        "led_by": _led_by(db, row),
        "again": _again(row),
        "evidence": evidence,
    }


def resume(db: Database, use_case: str, *, as_of: datetime, why: str) -> dict[str, Any]:
    """Let retrains go on that were stopped because the last ones brought nothing; the person's reason is recorded.

    Raises `MillraceError` when nothing is stopped, or no reason is given.
    """
    if not why.strip():
        raise MillraceError("To let retrains go on needs a reason.", todo='Say what was found: --why "…".')
    rows = db.decisions(use_case)
    called = max((row.id for row in rows if row.action == "page"), default=0)
    resumed = max((row.id for row in rows if row.action == RESUMED), default=0)
    if called <= resumed:
        raise MillraceError(
            f"The retrains of {use_case} are not stopped.",
            looked="No decision to page a person is open.",
            todo=f"See what was decided: millrace decisions {use_case}.",
        )
    number = db.add_decision(use_case, as_of=as_of, action=RESUMED, reason=why.strip(), evidence={"page": called})
    return {"use_case": use_case, "decision": number, "action": RESUMED, "after": called, "reason": why.strip()}


def _line(row: DecisionRow) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "id": row.id,
        "as_of": row.as_of,
        "action": row.action.replace("_", " "),
        "severity": row.severity or None,
        "version": row.version,
        "came_to": f"{outcome['result']} version {outcome['version']}" if outcome else None,
        "predicted": (outcome.get("predicted_gain") or {}).get("mean"),
        "realised": (outcome.get("realised_gain") or {}).get("mean"),
        "reason": row.reason,
    }


def _window(row: DecisionRow) -> str | None:
    if row.window_start is None or row.window_end is None:
        return None
    return f"{row.window_start:%Y-%m-%d %H:%M} to {row.window_end:%Y-%m-%d %H:%M} UTC"


def _seen(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a person asks for first; a use case's log loss is its quality's."""
    found = {name: evidence[name] for name in _FIGURES if name in evidence}
    for name in ("quality", "holdout"):
        if evidence.get(name):
            found |= {f"{name}_{metric}": evidence[name][metric] for metric in ("log_loss", "roc_auc", "accuracy")}
    found |= {name: evidence[name] for name in ("drifted", "data_problems") if evidence.get(name)}
    return found | ({"harm": evidence["harm"]["level"]} if evidence.get("harm") else {})


def _measured(db: Database, row: DecisionRow) -> list[dict[str, Any]]:
    """The window's figures as they were first seen and, where more labels came, as they are restated."""
    seen = (
        None if not (row.window_start and row.window_end) else db.window(row.use_case, row.window_start, row.window_end)
    )
    if seen is None:
        return []
    now: dict[str, Any] = {name: one for name, one in seen.metrics.items() if isinstance(one, float | None)}
    now |= {"labelled": seen.labelled, "as_of": seen.as_of.isoformat() if seen.as_of else None}
    first = seen.metrics.get("first_seen")
    return [{"as": "first seen"} | first, {"as": "restated"} | now] if first else [{"as": "first seen"} | now]


def _done(db: Database, row: DecisionRow) -> dict[str, Any] | None:
    """The run that the decision led to and how it ended; None when it called for none, or none was started."""
    if row.action != "retrain":
        return None
    trainings = db.runs(row.use_case, "train")
    run = next((run for run in trainings if _is_run_of(run, row)), None)
    outcome = {name: row.outcome.get(name) for name in ("result", "version", "replaced", "reason")}
    if run is None:
        return outcome | {"run": None, "state": "none was started"}
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else None
    return outcome | {"run": run.id, "state": run.state, "seconds": seconds, "error": run.detail.get("error")}


def _is_run_of(run: RunRow, row: DecisionRow) -> bool:
    """The run that the outcome names; before there is one, the newest training as of the decision's moment."""
    return run.id == row.outcome["run"] if row.outcome else run.as_of == row.as_of


def _gain(name: str, gain: Mapping[str, Any] | None) -> dict[str, Any]:
    found = dict(gain or {})
    return {
        "gain": name,
        **{figure: found.get(figure) for figure in ("mean", "low", "high", "unit")},
        "rows": found.get("compared", found.get("rows")),
        "final": found.get("final"),
        "note": found.get("note", "" if gain else "not known yet" if name == "realised" else "not comparable"),
    }


def _led_by(db: Database, row: DecisionRow) -> int | None:
    """Of a promotion or a refusal: the decision to retrain that it came from."""
    if row.action not in ("promoted", "refused"):
        return None
    asked = (one for one in db.decisions(row.use_case) if one.outcome.get("version") == row.version)
    return next((one.id for one in asked), None)


def _again(row: DecisionRow) -> dict[str, Any] | None:
    """Today's rules on yesterday's evidence; None for what no monitoring pass decided."""
    if row.window_start is None:
        return None
    try:
        again = decide_again(row.evidence)
    except (KeyError, TypeError, ValueError) as error:
        return {"same": False, "note": f"The stored evidence cannot be read by today's rules: {error!r}."}
    same = (again.action, again.reason[:4_000]) == (row.action, row.reason[:4_000])  # a long reason's end is not kept
    return {"same": same} | ({} if same else {"action": again.action, "reason": again.reason})
