"""`millrace features status`: the views as the online store has them, for people and for machines."""

from __future__ import annotations

import json

import pytest

from millrace.cli import main
from pipelines.workspace import Workspace


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard output of the command, which ends well."""
    with pytest.raises(SystemExit) as end:
        main(["features", "status", "taxi", *arguments])
    assert not end.value.code
    return capsys.readouterr().out


def test_each_view_is_shown_with_its_state(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (view,) = json.loads(status(capsys, "--as-of", "2024-01-20", "--json"))["views"]
    assert (view["view"], view["state"], view["stale"]) == ("recent", "fresh", "flag")
    assert view["live"] == view["entities"] > 0


def test_a_view_past_its_ttl_is_stale_and_no_failure(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (view,) = json.loads(status(capsys, "--as-of", "2030-01-01", "--json"))["views"]
    assert (view["state"], view["live"]) == ("stale", 0)


def test_people_read_a_line_a_view_in_eighty_columns(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    shown = status(capsys, "--as-of", "2024-01-20").splitlines()
    assert max(map(len, shown)) <= 80
    (line,) = (line for line in shown if "recent" in line)
    assert "fresh" in line
    assert "flag" in line
