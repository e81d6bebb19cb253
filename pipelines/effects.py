"""What a retrain came to: the run and the model it led to, and what that model gained over the one it replaced.

For a bounded time after a promotion every monitoring pass scores the replaced champion on the rows that the new one
has served, from the prediction log's own features, so that serving pays nothing; once the labels are there the gain is
settled. All of it stands in the decision that called for the retrain. This module decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from math import isnan
from typing import Any

import polars as pl

from millrace.db import DecisionRow, ModelRow
from millrace.errors import BundleError, FeatureError
from millrace.outcomes import PREDICTION_ID, ROW_KEY
from millrace.prediction_log import COLUMNS, PREDICTED, TABLE
from millrace.source import EVENT_TIME
from monitoring.evidence import Effect
from monitoring.window import Window, WindowResult
from monitoring.window import watch as look
from pipelines.models import TrainingDone
from pipelines.scoring import bundle_of, score_with
from pipelines.windows import Outcomes, watched_model
from pipelines.workspace import Workspace

PATIENCE = timedelta(days=30)
"""For how long labels are waited for when the replaced champion's time beside the new one is over."""
MOST_ROWS = 200_000
"""Of more rows than this the newest are compared: a gain of that many is as certain as anybody needs."""
RESUMED = "resumed"
"""The action of a person who lets retrains go on."""
PAST = ("retrain", "page", RESUMED)
"""The actions of decisions that later ones depend on."""


def record(ws: Workspace, number: int, done: TrainingDone) -> dict[str, Any]:
    """Write into the decision of this id, and into its window, what the training that it called for came to.

    Returns the outcome. Whoever trains because of a decision calls this, in whichever process.
    """
    row = done.outcome.version
    runs = [run.id for run in ws.db.runs(ws.use_case.name, "train") if run.detail.get("version") == row.version]
    outcome = {
        "run": runs[0] if runs else None,
        "version": row.version,
        "result": "promoted" if done.outcome.promoted else "refused",
        "reason": done.outcome.reason,
        **_predicted(row),
        "realised_gain": None,
    }
    ws.db.settle_decision(number, outcome)
    _tell_window(ws, number, outcome)
    return outcome


def measure(ws: Workspace, outcomes: Outcomes) -> int:
    """Bring the realised gains up to what is known: of every retrain whose effect is not settled yet.

    Returns how many were measured.
    """
    pending = [row for row in ws.db.decisions(ws.use_case.name, "retrain") if _pending(row, outcomes.as_of)]
    for decision in pending:
        found = _realised(ws, decision, outcomes)
        ws.db.settle_decision(decision.id, decision.outcome | {"realised_gain": found})
    return len(pending)


def settled(decisions: Sequence[DecisionRow], as_of: datetime) -> tuple[Effect, ...]:
    """The settled effects of retrains decided before `as_of`, the oldest first, since a person last let them go on.

    `decisions` are those with the actions of `PAST`, at least.
    """
    resumed = max((row.id for row in decisions if row.action == RESUMED and row.as_of <= as_of), default=0)
    found = []
    for row in decisions:
        gain = row.outcome.get("realised_gain") or {}
        if row.action != "retrain" or row.id < resumed or not gain.get("final") or gain.get("mean") is None:
            continue
        if row.as_of < as_of:
            predicted = (row.outcome.get("predicted_gain") or {}).get("mean")
            found.append(Effect(row.id, row.outcome["version"], predicted, gain["mean"]))
    return tuple(found)


def paged(decisions: Sequence[DecisionRow], effects: Sequence[Effect], as_of: datetime) -> bool:
    """Whether a person was called, before `as_of`, since the last of these retrains."""
    return bool(effects) and any(
        row.action == "page" and row.id > effects[-1].decision and row.as_of < as_of for row in decisions
    )


def _tell_window(ws: Workspace, number: int, outcome: Mapping[str, Any]) -> None:
    decision = ws.db.decision(number)
    if decision is None or decision.window_start is None or decision.window_end is None:
        return
    window = ws.db.window(ws.use_case.name, decision.window_start, decision.window_end)
    if window is not None:
        window.action, window.reason = outcome["result"], outcome["reason"]
        ws.db.add_window(window)


def _predicted(row: ModelRow) -> dict[str, Any]:
    """The champion that the gate compared the new model with, and the gain on the hold-out that it found."""
    checks = row.verdict.get("checks", [])
    figures: dict[str, Any] = next((one["figures"] for one in checks if one["name"] == "champion"), {})
    difference = figures.get("difference")
    gain = difference and {
        "mean": _negative(difference["mean"]),
        "low": _negative(difference["high"]),
        "high": _negative(difference["low"]),
        "rows": difference["rows"],
        "unit": "nats of log loss",
    }
    return {"replaced": figures.get("version"), "predicted_gain": gain or None}


def _pending(row: DecisionRow, as_of: datetime) -> bool:
    """Whether the decision led to a new champion whose gain is not settled, and whose rows there may be by now."""
    out = row.outcome
    open_yet = not (out.get("realised_gain") or {}).get("final")
    return out.get("result") == "promoted" and out.get("replaced") is not None and open_yet and row.as_of < as_of


def _realised(ws: Workspace, decision: DecisionRow, outcomes: Outcomes) -> dict[str, Any]:
    """The gain so far and whether that is the last word; a note says why there is none."""
    over = decision.as_of + ws.use_case.retrain.shadow
    for since, version in ws.db.champions(ws.use_case.name):
        if since > decision.as_of and version != decision.outcome["version"]:
            over = min(over, since)
    end = min(over, outcomes.as_of)
    about = {"from": decision.as_of.isoformat(), "until": end.isoformat(), "as_of": outcomes.as_of.isoformat()}
    try:
        found = _compare(ws, decision, Window(decision.as_of, end, outcomes.as_of), outcomes)
    except (BundleError, FeatureError) as error:
        return about | {"mean": None, "final": True, "note": error.what}
    mature = found is not None and found.live.coverage >= ws.use_case.retrain.min_coverage
    final = outcomes.as_of >= over and (mature or outcomes.as_of >= over + PATIENCE)
    return about | _figures(found) | {"final": final}


def _compare(ws: Workspace, decision: DecisionRow, window: Window, outcomes: Outcomes) -> WindowResult | None:
    """The rows that the new model served, beside the replaced one's scores of them; None when it has served none."""
    version, replaced = decision.outcome["version"], decision.outcome["replaced"]
    _check_inputs(ws, version, replaced)
    served = _served(ws, window, version, bundle_of(ws, replaced).contract.names)
    champion = ws.db.model(ws.use_case.name, version)
    if served.is_empty() or champion is None:
        return None
    beside = score_with(ws, served.drop("version", "score", PREDICTED, strict=False), replaced)
    return look(
        ws.use_case,
        window,
        watched_model(champion),
        reference=served.head(0),
        predictions=served,
        labels=outcomes.labels,
        posted=outcomes.posted,
        static=beside,
    )


def _served(ws: Workspace, window: Window, version: int, features: Sequence[str]) -> pl.DataFrame:
    """The window's predictions by the version, with these features and no others; of very many, the newest.

    The two models' scores are paired by row: a prediction without a key is a row of its own.
    """
    logged = ws.lake.scan(TABLE)
    names = set(logged.collect_schema().names())
    kept = [name for name in dict.fromkeys([*COLUMNS, PREDICTED, *features]) if name in names]
    inside = pl.col(EVENT_TIME).is_between(window.start, window.end, closed="left")
    keyed = pl.when(pl.col(ROW_KEY) == "").then(PREDICTION_ID).otherwise(ROW_KEY).alias(ROW_KEY)
    rows = logged.filter(inside, pl.col("version") == version).select(kept).with_columns(keyed)
    return rows.sort(EVENT_TIME).tail(MOST_ROWS).collect()


def _check_inputs(ws: Workspace, version: int, replaced: int) -> None:
    """The log keeps what the new model takes: a replaced one that takes more would be asked with holes in its rows."""
    taken, kept = bundle_of(ws, replaced).contract.names, bundle_of(ws, version).contract.names
    missing = [name for name in taken if name not in kept]
    if missing:
        raise FeatureError(
            f"Version {replaced} takes {', '.join(missing)}, which version {version}'s predictions do not have."
        )


def _figures(found: WindowResult | None) -> dict[str, Any]:
    if found is None or found.gain is None:
        return {"mean": None, "rows": 0, "labelled": 0, "note": "The new model has served no row."}
    gain = {name: None if isinstance(one, float) and isnan(one) else one for name, one in asdict(found.gain).items()}
    unit = "share of rows right" if found.evidence.top_label else "nats of log loss"
    counts = {"compared": gain.pop("rows"), "rows": found.rows, "labelled": found.live.labelled}
    return gain | counts | {"coverage": found.live.coverage, "unit": unit}


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
