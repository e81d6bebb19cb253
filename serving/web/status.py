"""What the status page shows, gathered from the platform's database: no HTML, no clock, no model.

Rows written by other stages are read leniently: what one of them did not record is shown as absent, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from millrace.db import Database, DecisionRow, ModelRow, RunRow, WindowRow
from serving.web.chart import Point, draw

_NAMES = {
    "accuracy": "Accuracy",
    "roc_auc": "ROC AUC",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "p50_ms": "Latency p50",
    "p99_ms": "Latency p99",
    "p50_ms_100": "Latency p50, 100 rows",
    "p99_ms_100": "Latency p99, 100 rows",
    "cold_start_ms": "Cold start",
    "joules_per_1000": "Energy of 1,000",
    "memory_mb": "Memory",
    "bundle_mb": "Bundle size",
}
_FACTS = ("accuracy", "roc_auc", "log_loss", "calibration_error", "p99_ms", "memory_mb")
"""What the champion's card has."""
_UNITS = {"_ms": " ms", "_ms_100": " ms", "_mb": " MB", "_per_1000": " J"}


@dataclass(frozen=True, slots=True)
class LimitLine:
    """One limit of the budget: `used` is how much of it is taken, 0 to 100 and beyond, for a cost."""

    name: str
    limit: str
    measured: str
    passed: bool
    used: int | None


@dataclass(frozen=True, slots=True)
class ChampionCard:
    """The model that serves."""

    version: int
    candidate: str
    trained_as_of: datetime
    since: datetime | None
    reason: str
    facts: tuple[tuple[str, str], ...]
    passed: bool | None
    reasons: tuple[str, ...]
    limits: tuple[LimitLine, ...]


@dataclass(frozen=True, slots=True)
class View:
    """A feature view in the online store: the entities that the last materialization wrote, the newest value that any
    wrote, and how far that lies before the last one."""

    name: str
    written: int | None
    newest: datetime | None
    behind: str


@dataclass(frozen=True, slots=True)
class Work:
    """The last run of one kind."""

    as_of: datetime
    ended: datetime | None
    state: str
    rows: int | None
    error: str
    sources: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The whole page of one use case."""

    use_case: str
    question: str
    champion: ChampionCard | None
    models: int
    ingest: Work | None
    materialize: Work | None
    views: tuple[View, ...]
    given: tuple[str, ...]
    """The inputs that come with a request where there is no online store."""
    windows: tuple[WindowRow, ...]
    """The newest first."""
    decisions: tuple[DecisionRow, ...]
    """The newest first, at most eight; those to do nothing are left out."""
    roc_auc: str
    log_loss: str
    gain: float | None
    """How much lower the live log loss was than that of the first champion left alone, on average."""


def gather(db: Database, use_case: str, question: str, given: tuple[str, ...] = ()) -> Status:
    """Everything the page shows of a use case, which may have nothing yet; `given` are its request features."""
    champion, windows, decisions = db.champion(use_case), db.windows(use_case), db.decisions(use_case)
    ingests, materializations = db.runs(use_case, "ingest"), db.runs(use_case, "materialize")
    return Status(
        use_case=use_case,
        question=question,
        champion=_card(champion, decisions) if champion else None,
        models=len(db.models(use_case)),
        ingest=_work(ingests[0]) if ingests else None,
        materialize=_work(materializations[0]) if materializations else None,
        views=_views(materializations),
        given=given,
        windows=tuple(reversed(windows)),
        decisions=tuple(row for row in reversed(decisions) if row.action != "nothing")[:8],
        roc_auc=draw("ROC AUC", _points(windows, "roc_auc")),
        log_loss=draw("Log loss", _points(windows, "log_loss")),
        gain=_gain(windows),
    )


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return _NAMES.get(metric, metric.replace("_", " "))


def metric_text(metric: str, value: Any) -> str:
    """A value with its unit, in about three significant digits; a dash when it was not measured."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "–"
    unit = next((unit for suffix, unit in _UNITS.items() if metric.endswith(suffix)), "")
    return f"{value:.3g}{unit}" if unit and value < 100 else f"{value:,.0f}{unit}" if unit else f"{value:.4f}"


def _card(champion: ModelRow, decisions: Sequence[DecisionRow]) -> ChampionCard:
    entered = [
        row for row in decisions if row.version == champion.version and row.action in ("promoted", "rolled back")
    ]
    measured = {**champion.quality, **champion.cost}
    facts = [(metric_name(name), metric_text(name, measured[name])) for name in _FACTS if name in measured]
    verdict = champion.verdict
    return ChampionCard(
        version=champion.version,
        candidate=champion.candidate,
        trained_as_of=champion.as_of,
        since=entered[-1].as_of if entered else None,
        reason=entered[-1].reason if entered else "",
        facts=tuple(facts),
        passed=verdict.get("passed"),
        reasons=tuple(str(reason) for reason in verdict.get("reasons", ())),
        limits=tuple(_limit(limit) for limit in verdict.get("limits", ())),
    )


def _limit(limit: Mapping[str, Any]) -> LimitLine:
    metric, bound, measured = str(limit.get("metric", "")), limit.get("bound"), limit.get("measured")
    sense = str(limit.get("sense", ""))
    return LimitLine(
        name=metric_name(metric),
        limit=f"{'≥' if sense == '>=' else '≤'} {metric_text(metric, bound)}",
        measured=metric_text(metric, measured),
        passed=bool(limit.get("passed")),
        used=_used(sense, bound, measured),
    )


def _used(sense: str, bound: Any, measured: Any) -> int | None:
    """How much of a limited cost is used, in percent."""
    if sense != "<=" or not bound or not isinstance(measured, int | float) or not math.isfinite(measured):
        return None
    return round(100 * float(measured) / float(bound))


def _work(run: RunRow) -> Work:
    sources = tuple((name, _number(rows)) for name, rows in _mapping(run.detail.get("sources")).items())
    return Work(
        as_of=run.as_of,
        ended=run.ended_at,
        state=run.state,
        rows=_number(run.detail.get("rows")),
        error=str(run.detail.get("error", "")),
        sources=sources,
    )


def _views(runs: Sequence[RunRow]) -> tuple[View, ...]:
    """The views of the last run that names them; a run writes only what is new, so the newest value may be older."""
    told = [(run.as_of, _mapping(run.detail.get("views"))) for run in runs]
    as_of, last = next(((as_of, views) for as_of, views in told if views), (None, {}))
    found = []
    for name, view in last.items():
        instants = (_instant(_mapping(views.get(name)).get("newest")) for _, views in told)
        newest = max((instant for instant in instants if instant), default=None)
        behind = _span((as_of - newest).total_seconds()) if as_of and newest else ""
        found.append(View(name, _number(_mapping(view).get("entities")), newest, behind))
    return tuple(found)


def _points(windows: Sequence[WindowRow], metric: str) -> list[Point]:
    return [
        Point(
            row.start,
            _float(row.metrics.get(f"{metric}_live")),
            _float(row.metrics.get(f"{metric}_static")),
            row.version,
        )
        for row in windows
    ]


def _gain(windows: Sequence[WindowRow]) -> float | None:
    pairs = [(point.static, point.live) for point in _points(windows, "log_loss")]
    gains = [static - live for static, live in pairs if static is not None and live is not None]
    return sum(gains) / len(gains) if gains else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _instant(value: Any) -> datetime | None:
    """An instant from a run's JSON; without a zone it is UTC."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return instant.replace(tzinfo=UTC) if instant and instant.tzinfo is None else instant


def _span(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
