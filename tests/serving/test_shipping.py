"""A running server's log reaches the lake through a process of its own."""

from __future__ import annotations

import asyncio
import time

import pytest

from millrace.lake import open_lake
from millrace.prediction_log import TABLE, Prediction, PredictionLog, log_folder
from millrace.settings import Settings
from serving.shipping import keep_shipping, ship_once

from .conftest import Promote
from .process import CASES, serving


def predict(settings: Settings, name: str) -> None:
    log = PredictionLog(log_folder(settings, "late"))
    log.append({"delay": "number"}, [Prediction(name, 1, 1_000_000, 1_000_000, "", "", 0.5, [0.1])])
    log.close()


def test_finished_segments_are_in_the_lake_once(settings: Settings) -> None:
    settings = settings.model_copy(update={"use_cases": CASES})
    for name in ("a", "b"):
        predict(settings, name)
        asyncio.run(ship_once(settings, ["late"]))
    assert open_lake(settings, "late").scan(TABLE).collect()["prediction_id"].sort().to_list() == ["a", "b"]
    assert not list(log_folder(settings, "late").iterdir())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_ships_by_itself(settings: Settings, promote: Promote, workers: str) -> None:
    promote()
    predict(settings, "a")
    lake = open_lake(settings, "late")
    with serving(settings, "--workers", workers, ship_minutes=0.005):
        while not lake.exists(TABLE):
            time.sleep(0.05)
    assert lake.scan(TABLE).collect()["prediction_id"].to_list() == ["a"]


def test_a_failure_is_logged_and_leaves_the_segments(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    predict(settings, "a")
    asyncio.run(ship_once(settings, ["late"]))  # not among the examples, which these settings name
    assert "There is no use case" in caplog.text
    assert len(list(log_folder(settings, "late").iterdir())) == 1


def test_zero_minutes_is_never(settings: Settings) -> None:
    asyncio.run(keep_shipping(settings.model_copy(update={"ship_minutes": 0.0}), ["late"]))
