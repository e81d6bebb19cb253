"""What the servers of this machine have written so far, moved into the lake: predictions, and what came of them."""

from __future__ import annotations

from millrace import outcome_log, prediction_log
from pipelines.workspace import Workspace


def ship_served(ws: Workspace) -> tuple[int, int]:
    """Ship the finished segments of the prediction log and all of the outcome log; returns how many predictions and how
    many outcomes were new to the lake."""
    name = ws.use_case.name
    predictions = prediction_log.ship(prediction_log.log_folder(ws.settings, name), ws.lake)
    return predictions, outcome_log.ship(outcome_log.log_path(ws.settings, name), ws.lake)
