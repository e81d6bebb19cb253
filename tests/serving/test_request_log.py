"""The request log: what is worth a line gets one, with its stages, and under load few do."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from millrace.errors import FeatureError
from serving.request_log import RequestLog

LOGGER = "serving.request_log"


def scope(seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"arrived": time.perf_counter() - seconds, "request_id": "abc", "method": "POST", **more}


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def listening(level: int) -> Iterator[list[logging.LogRecord]]:
    logger, handler = logging.getLogger(LOGGER), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    with listening(logging.WARNING) as records:
        yield records


def test_a_quick_good_request_is_no_line(lines: list[logging.LogRecord]) -> None:
    RequestLog(slow_ms=500, per_second=10).note(scope(), "/v1/late/predict", 200)
    assert lines == []


def test_a_slow_request_tells_its_stages(lines: list[logging.LogRecord]) -> None:
    slow = scope(0.6, stages=lambda: {"queue": 590.0, "model": 10.0})
    RequestLog(slow_ms=500, per_second=10).note(slow, "/v1/late/predict", 200)
    (line,) = lines
    assert line.levelno == logging.WARNING
    assert "POST /v1/late/predict 200 in 600." in line.getMessage()
    assert "(queue 590.0, model 10.0)" in line.getMessage()
    assert (line.__dict__["queue_ms"], line.__dict__["request_id"]) == (590.0, "abc")


def test_a_failure_of_ours_is_told_in_words_and_one_that_nobody_foresaw_with_its_traceback(
    lines: list[logging.LogRecord],
) -> None:
    log = RequestLog(slow_ms=500, per_second=10)
    log.note(scope(error=FeatureError("The store is down.", looked="At redis.")), "/v1/late/predict", 503)
    log.note(scope(error=ZeroDivisionError("no")), "other", 500)
    ours, other = lines
    assert (ours.levelno, ours.exc_info) == (logging.WARNING, None)
    assert ours.getMessage().endswith("The store is down. At redis.")
    assert other.levelno == logging.ERROR
    assert other.exc_info is not None


def test_under_load_few_lines_are_written_and_the_next_tells_how_many_are_missing(
    lines: list[logging.LogRecord],
) -> None:
    now = 7.0
    log = RequestLog(slow_ms=0, per_second=3, clock=lambda: now)
    for _ in range(10):
        log.note(scope(), "/v1/late/predict", 200)
    assert len(lines) == 3
    now = 8.0
    log.note(scope(), "/v1/late/predict", 200)
    assert lines[-1].__dict__["suppressed"] == 7


def test_at_info_every_request_is_a_line() -> None:
    with listening(logging.INFO) as records:
        RequestLog(slow_ms=500, per_second=10).note(scope(), "/health/ready", 200)
    assert [record.levelno for record in records] == [logging.INFO]
