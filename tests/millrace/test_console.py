"""Outcomes for people: a line a row where there is room, side by side where there is not; nothing is cut off."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from millrace import console

WIDE = [{f"column_{n}": f"value {n} of {row}" for n in range(8)} for row in ("one", "two")]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """A terminal of sixty columns."""
    screen = StringIO()
    narrow = Console(file=screen, width=60, force_terminal=True, no_color=True, highlight=False)
    monkeypatch.setattr(console, "_out", narrow)
    return screen


def test_few_wide_rows_stand_side_by_side(terminal: StringIO) -> None:
    console.show({"rows": WIDE}, json=False)
    line = next(line for line in terminal.getvalue().splitlines() if "column 3" in line)
    assert "value 3 of one" in line
    assert "value 3 of two" in line


def test_many_rows_keep_a_line_each(terminal: StringIO) -> None:
    console.show({"rows": [{"name": f"n{n}", "size": n} for n in range(20)]}, json=False)
    lines = terminal.getvalue().splitlines()
    assert sum("n1" in line for line in lines) == 11


def test_a_word_too_long_for_its_column_goes_on_below(terminal: StringIO) -> None:
    console.show({"rows": [{"batch": "x" * 150, "n": n} for n in range(4)]}, json=False)
    assert terminal.getvalue().count("x") == 600


def test_a_pipe_has_room_that_no_terminal_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = StringIO()
    monkeypatch.setattr(console, "_out", Console(file=piped, width=60, highlight=False))
    console.show({"rows": WIDE}, json=False)
    assert "value 0 of one │ value 1 of one" in piped.getvalue()


def replayed(**metrics: float | None) -> dict[str, object]:
    """A replay of one week with these figures."""
    week = {"from": "2013-04-01", "rows": 168, "drifted": [], "decision": "nothing", "reason": "Calm."} | metrics
    champion = {"version": 1, "candidate": "cnn", "budget": {}}
    return {"champion": champion, "windows": [week], "mean_log_loss_gain": None, "seconds": {"total": 2.0}}


def test_a_replay_without_known_labels_claims_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = StringIO()
    monkeypatch.setattr(console, "_out", Console(file=piped, width=200, highlight=False))
    unknown = {f"{name}_{side}": None for name in ("roc_auc", "log_loss") for side in ("live", "static")}
    console.show_replay(replayed(**unknown), Path("summary.json"), json=False)
    assert "0 new champions in 1 weeks, in 2 s." in piped.getvalue()
    assert "beats" not in piped.getvalue()
    assert "ROC AUC" in piped.getvalue()


def test_a_replay_of_classes_compares_by_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = StringIO()
    monkeypatch.setattr(console, "_out", Console(file=piped, width=200, highlight=False))
    figures = {"accuracy_live": 0.97, "accuracy_static": 0.91, "log_loss_live": 0.2, "log_loss_static": None}
    console.show_replay(replayed(**figures), Path("summary.json"), json=False)
    shown = piped.getvalue()
    assert "accuracy" in shown
    assert "0.9700" in shown
    assert "0.9100" in shown
