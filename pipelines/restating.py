"""Windows measured again with the labels that came since; what was first seen of each stays beside it.

A pass restates by itself the earlier windows that new labels touch, within a bound; a replay restates all at its end.
No decision is taken again: what was decided rests on what was known then.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import polars as pl

from millrace.db import WindowRow
from millrace.outcomes import LABEL_KNOWN_AT, PREDICTION_ID, ROW_KEY, by_row_key
from millrace.prediction_log import TABLE
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL
from monitoring.performance import join_labels
from monitoring.window import Window
from monitoring.window import watch as look
from pipelines.served import ship_served
from pipelines.windows import Outcomes, first_seen, metrics, shadow_in, watched_model, within
from pipelines.workspace import Workspace

REACH = 4
"""A pass looks back for so many windows, or so many times as long as labels take, whichever is longer."""
MOST = 48
"""At most so many windows are restated by one pass, the newest first; the next pass goes on."""


def restate(ws: Workspace, *, as_of: datetime) -> None:
    """Measure every window again with the labels known at `as_of`; what was first seen stays beside it."""
    ship_served(ws)
    _restate(ws, ws.db.windows(ws.use_case.name), Outcomes.read(ws, as_of))


def restate_late(ws: Workspace, before: datetime, outcomes: Outcomes) -> int:
    """Measure again those windows ended by `before` of which more is known than when they were last measured.

    Returns how many there were.
    """
    reach = REACH * max(ws.use_case.monitor.window, ws.use_case.label.arrives_after)
    rows = [row for row in ws.db.windows(ws.use_case.name) if before - reach <= row.start and row.end <= before]
    if not rows or not ws.lake.exists(TABLE):
        return 0
    stretch = Window(min(row.start for row in rows), max(row.end for row in rows), outcomes.as_of)
    known = _labelled(ws, stretch, outcomes)
    late = [row for row in rows if _says_more(known, row)][-MOST:]
    _restate(ws, late, outcomes)
    return len(late)


def _labelled(ws: Workspace, stretch: Window, outcomes: Outcomes) -> pl.DataFrame:
    """Key, instant and label's known time of the stretch's predictions that have a label."""
    inside = pl.col(EVENT_TIME).is_between(stretch.start, stretch.end, closed="left")
    rows = ws.lake.scan(TABLE).filter(inside).select(ROW_KEY, PREDICTION_ID, EVENT_TIME).collect()
    own = by_row_key(ws.use_case.label, outcomes.labels)
    return join_labels(rows, own, *outcomes.posted, as_of=outcomes.as_of).frame.drop_nulls(LABEL)


def _says_more(known: pl.DataFrame, row: WindowRow) -> bool:
    """Whether the window has more labels than it was measured with, or newer ones."""
    inside = known.filter(pl.col(EVENT_TIME).is_between(row.start, row.end, closed="left"))
    names = pl.when(pl.col(ROW_KEY) == "").then(PREDICTION_ID).otherwise(ROW_KEY)
    more = inside.select(names.n_unique()).item() > row.labelled
    return more or (row.as_of is not None and bool((inside[LABEL_KNOWN_AT] > row.as_of).any()))


def _restate(ws: Workspace, rows: Iterable[WindowRow], outcomes: Outcomes) -> None:
    for row in rows:
        champion = ws.db.model(ws.use_case.name, row.version)
        if champion is None:
            continue
        window = Window(row.start, row.end, outcomes.as_of)
        frame = within(ws, TABLE, window)
        result = look(
            ws.use_case,
            window,
            watched_model(champion),
            reference=frame.head(0),
            predictions=frame,
            labels=outcomes.labels,
            posted=outcomes.posted,
            static=shadow_in(ws, window),
        )
        watched = row.metrics.get("watched", {}) | {"maturity": result.maturity.as_dict()}
        row.metrics = row.metrics | metrics(result) | first_seen(row, result) | {"watched": watched}
        row.labelled, row.as_of = result.live.labelled, outcomes.as_of
        ws.db.add_window(row)
