"""What a monitoring pass is told beside its frames: the window before, earlier sizes, what the model costs and uses."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from millrace.bundle import Bundle
from millrace.prediction_log import TABLE
from millrace.source import EVENT_TIME
from monitoring.sight import Beside
from monitoring.window import Window
from pipelines.importances import importances
from pipelines.workspace import Workspace


def beside(ws: Workspace, window: Window, champion: Bundle) -> Beside:
    """All of it that there is at the window: of the champion's bundle, the lake and the platform's database."""
    return Beside(
        previous=_window_before(ws, window),
        importance=importances(champion, ws.settings),
        earlier_rows=_earlier_rows(ws, window),
        costs={version: _costs(ws, version) for _, version in ws.db.champions(ws.use_case.name)},
        price=ws.settings.core_hour_price or None,
    )


def _window_before(ws: Workspace, window: Window) -> pl.DataFrame | None:
    """The predictions of the stretch of the same length that ends where the window begins; None without any."""
    if not ws.lake.exists(TABLE):
        return None
    earlier = window.start - (window.end - window.start)
    inside = pl.col(EVENT_TIME).is_between(earlier, window.start, closed="left")
    found = ws.lake.scan(TABLE).filter(inside).collect()
    return found if found.height else None


def _earlier_rows(ws: Workspace, window: Window) -> Sequence[int]:
    """How many rows each earlier window of this length had."""
    length = window.end - window.start
    earlier = (row for row in ws.db.windows(ws.use_case.name) if row.end <= window.start)
    return [row.rows for row in earlier if row.end - row.start == length]


def _costs(ws: Workspace, version: int) -> dict[str, float]:
    row = ws.db.model(ws.use_case.name, version)
    return {name: value for name, value in row.cost.items() if isinstance(value, (int, float))} if row else {}
