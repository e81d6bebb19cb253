"""The upkeep of a use case's lake by its commands: what a model was trained on stays, damage is told, rows stay."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.cli import main
from millrace.console import SilentProgress
from millrace.errors import LakeError
from pipelines import data, upkeep
from pipelines.workspace import Workspace, open_workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
NOW = datetime(2024, 2, 1, tzinfo=UTC)
QUIET = SilentProgress()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit code, standard output as JSON and standard error of one `millrace lake` command."""
    with pytest.raises(SystemExit) as end:
        main(["lake", *arguments, "--json"])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), json.loads(out) if out else None, err


def test_the_versions_that_the_champion_was_trained_on_are_known(ws: Workspace) -> None:
    assert upkeep.trained_on(ws) == {
        name: {ws.lake.version(name): [1]} for name in ("raw/planned", "raw/done", "features/recent")
    }


def test_the_tables_are_listed_with_rows_and_files(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "list", "taxi")
    lines = {line["table"]: line for line in shown["tables"]}
    assert code == 0
    assert sorted(lines) == ws.lake.tables()
    assert lines["raw/done"]["rows"] == ws.lake.scan("raw/done").collect().height
    assert lines["raw/done"]["files"] == 1


def test_a_training_reads_the_same_after_compaction_and_vacuum(
    ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {name: next(iter(versions)) for name, versions in upkeep.trained_on(ws).items()}
    then = {name: ws.lake.scan(name, version=version).collect() for name, version in trained.items()}
    for days in (3, 7):
        data.ingest(ws, as_of=START + timedelta(days=days))
    assert run(capsys, "compact", "taxi")[0] == 0
    code, shown, _ = run(capsys, "vacuum", "taxi", "--older-than", "0")
    kept = {line["table"]: line["kept_versions"] for line in shown["tables"]}
    assert code == 0
    assert kept["raw/done"] == [f"{trained['raw/done']} (model 1)"]
    for name, frame in then.items():
        now = ws.lake.scan(name, version=trained[name]).collect()
        assert now.sort(pl.all()).equals(frame.sort(pl.all()))
    with pytest.raises(LakeError, match="files are gone"):
        ws.lake.scan("raw/done", version=trained["raw/done"] + 1)


def test_history_tells_batches_ranges_models_and_what_can_be_read(
    ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    _, shown, _ = run(capsys, "history", "taxi", "raw/done", "--limit", "50")
    commits = {line["version"]: line for line in shown["commits"]}
    assert shown["versions"] == len(commits)
    assert (commits[0]["did"], commits[0]["models"], commits[0]["readable"]) == ("merge", "1", True)
    assert f"-{START:%Y%m%dT%H%M%S}:" in commits[0]["batch"]
    assert not commits[1]["readable"]
    assert "compact" in {line["did"] for line in shown["commits"]}


def test_rows_are_shown_as_of_a_version(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    _, then, _ = run(capsys, "show", "taxi", "raw/done", "--version", "0", "--limit", "2")
    _, now, _ = run(capsys, "show", "taxi", "raw/done")
    assert (len(then["newest"]), len(now["newest"])) == (2, 10)
    assert then["rows"] < now["rows"]
    assert then["newest"][0]["event_time"] > then["newest"][1]["event_time"]


def test_a_version_and_a_moment_at_once_are_refused(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "show", "taxi", "raw/done", "--version", "0", "--at", "2024-01-01")
    assert code == 2
    assert "not both" in err


def test_a_dry_run_says_so_and_deletes_nothing(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    data.ingest(ws, as_of=START + timedelta(days=8))
    run(capsys, "compact", "taxi", "raw/done")
    before = ws.lake.history("raw/done")
    _, shown, _ = run(capsys, "vacuum", "taxi", "raw/done", "--older-than", "0", "--dry-run")
    assert (shown["dry_run"], shown["tables"][0]["files"] > 0) == (True, True)
    assert ws.lake.history("raw/done") == before


def test_a_whole_lake_verifies(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, _ = run(capsys, "verify", "taxi")
    assert (code, shown["whole"], shown["faults"]) == (0, True, [])
    assert {line["table"] for line in shown["tables"]} == set(ws.lake.tables())


def test_one_flipped_byte_ends_in_exit_code_1_and_names_the_file(
    ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(ws.lake.uri("raw/done")) / min(ws.lake.files("raw/done"))
    whole = file.read_bytes()
    file.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    code, shown, _ = run(capsys, "verify", "taxi", "raw/done")
    file.write_bytes(whole)
    assert (code, shown["whole"]) == (1, False)
    assert file.name in shown["faults"][0]["fault"]


def test_a_table_that_is_not_there_is_named(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "compact", "vacuum", "history", "show"):
        code, _, err = run(capsys, command, "taxi", "raw/nothing")
        assert code == LakeError.exit_code
        assert "no table 'raw/nothing'" in json.loads(err)["what"]


def test_upkeep_is_recorded_among_what_ran(ws: Workspace) -> None:
    upkeep.compact(ws, "raw/done", as_of=NOW, progress=QUIET)
    assert ws.db.runs("taxi", "compact")[0].state == "done"


def test_without_a_models_bundle_nothing_is_vacuumed(ws: Workspace) -> None:
    bundle = Path(ws.db.models("taxi")[0].bundle)
    shutil.move(bundle, bundle.with_name("aside"))
    try:
        with pytest.raises(LakeError, match="nobody knows what it was trained on"):
            upkeep.vacuum(ws, None, as_of=NOW, progress=QUIET)
    finally:
        shutil.move(bundle.with_name("aside"), bundle)


def test_builds_go_on_after_a_vacuum_as_if_there_had_been_none(ws: Workspace, tmp_path: Path) -> None:
    later = START + timedelta(days=10)
    data.ingest(ws, as_of=later)
    with open_workspace("taxi", tmp_path) as fresh:
        data.ingest(fresh, as_of=later)
        whole = fresh.lake.scan("features/recent").sort("zone", "event_time").collect()
    assert ws.lake.scan("features/recent").sort("zone", "event_time").collect().equals(whole)
    assert [view.entities for view in data.materialize(ws, as_of=later).views] == [4]
