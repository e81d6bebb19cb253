"""A window's frames from the lake, what came of its predictions, and its row in the database.

What the watching stage, its restating and its effects share. Nothing here decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from features.training_set import labels
from millrace.db import ModelRow, WindowRow
from millrace.errors import NoDataError
from millrace.outcomes import LABEL_KNOWN_AT, ROW_KEY, disputed, posted, standing, unknown
from millrace.prediction_log import TABLE
from millrace.quality import Quality
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL
from monitoring.window import Champion, Window, WindowResult
from pipelines.scoring import SHADOW
from pipelines.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What was known at `as_of` of the rows' outcomes: from the label's source, and from what clients posted."""

    as_of: datetime
    labels: pl.DataFrame
    posted: tuple[pl.DataFrame, ...]
    disputed: int
    """Rows of which the two say different things."""

    @classmethod
    def read(cls, ws: Workspace, as_of: datetime) -> Outcomes:
        """Read them once for a pass; a source of which nothing is ingested yet knows nothing."""
        try:
            own = labels(ws.use_case, ws.lake, as_of=as_of)
        except NoDataError:
            instant = pl.Datetime("us", "UTC")
            own = pl.DataFrame(schema={ROW_KEY: pl.String, LABEL: pl.Int8, LABEL_KNOWN_AT: instant})
        label, said = ws.use_case.label, posted(ws.use_case.label, ws.lake, as_of=as_of)
        return cls(as_of, own, standing(label, own, said), disputed(label, own, said))

    def unknown(self, ws: Workspace) -> int:
        """How many predictions and rows clients named that were never predicted; their labels are kept."""
        return unknown(ws.lake, as_of=self.as_of)


def watched_model(row: ModelRow) -> Champion:
    """A registered version as the monitoring room wants it."""
    return Champion(row.version, row.as_of, Quality.from_dict(row.quality))


def predictions_in(ws: Workspace, window: Window) -> pl.DataFrame:
    """The predictions of the window, online and batch; an empty window has the columns that every prediction has.

    Raises `NoDataError` when nothing of this use case was ever predicted.
    """
    if not ws.lake.exists(TABLE):
        raise NoDataError(
            f"Nothing of {ws.use_case.name} was predicted yet.",
            looked="The prediction log has no row.",
            todo=f"Score it first: millrace score {ws.use_case.name} --from {window.start:%Y-%m-%d} "
            f"--until {window.end:%Y-%m-%d}.",
        )
    return within(ws, TABLE, window)


def shadow_in(ws: Workspace, window: Window) -> pl.DataFrame | None:
    """The same rows scored by a model left alone, where there is one."""
    return within(ws, SHADOW, window) if ws.lake.exists(SHADOW) else None


def within(ws: Workspace, table: str, window: Window) -> pl.DataFrame:
    """The rows of a table of the lake with an instant in the window."""
    inside = pl.col(EVENT_TIME).is_between(window.start, window.end, closed="left")
    return ws.lake.scan(table).filter(inside).collect()


def window_row(ws: Workspace, result: WindowResult, *, action: str, reason: str) -> WindowRow:
    """The pass as a row; what an earlier pass over this window measured stays in it when this one measures other."""
    window, name = result.window, ws.use_case.name
    before = ws.db.window(name, window.start, window.end)
    return WindowRow(
        use_case=name,
        start=window.start,
        end=window.end,
        version=result.version,
        rows=result.rows,
        labelled=result.live.labelled,
        action=action,
        reason=reason,
        created_at=datetime.now(UTC),
        metrics=metrics(result) | {"watched": result.summary()} | (first_seen(before, result) if before else {}),
        drifted=list(result.drift.drifted),
        as_of=window.as_of,
    )


def first_seen(before: WindowRow, result: WindowResult) -> dict[str, Any]:
    """What the window's first pass saw, its labels and their moment with it; nothing while a later one sees the same.

    Provisional figures are restated, never replaced: `first_seen` stands beside them.
    """
    if "first_seen" in before.metrics:
        return {"first_seen": before.metrics["first_seen"]}
    now = metrics(result)
    then = {name: before.metrics.get(name) for name in now}
    if (then, before.labelled) == (now, result.live.labelled):
        return {}
    moment = before.as_of.isoformat() if before.as_of else None
    return {"first_seen": then | {"labelled": before.labelled, "as_of": moment}}


def metrics(result: WindowResult) -> dict[str, Any]:
    """The figures that are compared week by week; None where there are no labels, or no static model.

    Of K classes area and loss are of each model's own event, so the static one's are None: they compare by accuracy.
    """
    found: dict[str, Any] = {}
    classes = result.evidence.top_label
    for name, performance in (("live", result.live), ("static", result.static)):
        quality = performance.quality.to_dict() if performance and performance.quality else {}
        event = {} if classes and name == "static" else quality
        found |= {f"{metric}_{name}": event.get(metric) for metric in ("roc_auc", "log_loss")}
        found |= {f"accuracy_{name}": quality.get("accuracy")} if classes else {}
    return found
