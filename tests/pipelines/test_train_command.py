"""The options of `millrace train` are understood, and what they cannot be is told before anything starts."""

from __future__ import annotations

from datetime import timedelta

import pytest
import typer

from millrace.cli import main
from millrace.cli.training import bounds, duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7_200), ("1d", 86_400), ("45", 45), (" 1.5m ", 90)]
)
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5s", "0", "0m", "5w", "1h30m", "nan"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="not a duration"):
        duration(text)


def test_bounds_are_numbers_by_metric() -> None:
    assert bounds("memory_mb=50, p99_ms=5.5") == {"memory_mb": 50.0, "p99_ms": 5.5}


@pytest.mark.parametrize("text", ["", "p99_ms", "p99_ms=fast", "p99_ms=1=2", "p99_ms=nan", ","])
def test_what_are_no_bounds_is_told(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write METRIC=NUMBER"):
        bounds(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--limit", "1h"), "--launch subprocess"),
        (("--trials", "-1"), "--trials"),
        (("--processes", "0"), "--processes"),
        (("--device", "tpu"), "--device"),
        (("--launch", "moon"), "--launch"),
        (("--timeout", "soon"), "not a duration"),
        (("--budget", "fast"), "METRIC=NUMBER"),
        (("--torchrun", "1"), "--as-of"),
        (("--torchrun", "1", "--as-of", "2024-01-20", "--trials", "3"), "under torchrun"),
        (("--torchrun", "1", "--as-of", "2024-01-20", "--launch", "subprocess"), "launcher already"),
    ],
)
def test_an_impossible_option_is_told_at_once(
    environment: object, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "taxi", *arguments])
    assert (end.value.code, says in capsys.readouterr().err) == (2, True)
