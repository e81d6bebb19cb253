"""The quarantine: a bad row lies there once, says why, and comes back exactly once when the schema is right."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from millrace import Source
from millrace.errors import NoDataError
from millrace.lake import Lake
from millrace.settings import Settings
from pipelines.ingest import ingest_source
from pipelines.ingest.quarantine import Replayed, list_held, replay, show_held

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
TYPES = {"key": pl.String, "event_time": INSTANT, "known_at": INSTANT, "reading": pl.Float64, "seen": INSTANT}


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def rows(*values: tuple[str | None, float | None, float | None]) -> pl.DataFrame:
    """Rows as (key, known hour, reading)."""
    frame = [
        {"key": key, "event_time": at(0), "known_at": None if hour is None else at(hour), "reading": reading}
        for key, hour, reading in values
    ]
    return pl.DataFrame([row | {"seen": at(0.5)} for row in frame], schema=TYPES)


def at_most(limit: float, kind: Any = pl.Float64) -> Callable[[], Any]:
    """The schema of readings up to a limit."""
    return lambda: pa.DataFrameSchema({"reading": pa.Column(kind, pa.Check.le(limit), nullable=True)}, strict=False)


def source(frame: pl.DataFrame, limit: float = 100, **more: Any) -> Source:
    return Source("readings", lambda since, until: frame, at_most(limit), key=("key",), **more)


BAD = rows(("a", 1, 10.0), ("b", 1, 500.0), ("c", 2, 900.0))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """One good row, and two in quarantine."""
    lake = Lake(str(tmp_path))
    ingest(lake, source(BAD), 3)
    return lake


def ingest(lake: Lake, source: Source, until: float, since: float | None = None) -> None:
    ingest_source(source, lake, Settings(), since=None if since is None else at(since), as_of=at(until))


def again(lake: Lake, limit: float = 100, **more: Any) -> Replayed:
    (done,) = replay(lake, (source(BAD, limit),), as_of=at(9), **more)
    return done


def raw(lake: Lake) -> list[tuple[Any, ...]]:
    return lake.scan("raw/readings").select("key", "reading").sort("key").collect().rows()


def test_what_is_held_is_a_line_a_batch_with_its_commonest_reasons(lake: Lake) -> None:
    (line,) = list_held(lake, (source(BAD),))
    assert (line.source, line.rows, line.quarantined_at) == ("readings", 2, at(3))
    assert line.reasons == ("reading: less_than_or_equal_to(100) (2)",)
    assert line.batch == lake.scan("quarantine/readings").collect()["batch"][0].rsplit(":", 1)[1]


def test_a_held_row_says_what_is_wrong_with_each_column(lake: Lake) -> None:
    newest, _ = show_held(lake, (source(BAD),))
    assert (newest.reasons, newest.known_at) == (("reading: less_than_or_equal_to(100)",), at(2))
    assert json.loads(newest.row)["reading"] == 900.0


def test_no_more_rows_are_shown_than_asked_for(lake: Lake) -> None:
    assert len(show_held(lake, (source(BAD),), limit=1)) == 1


def test_nothing_is_held_of_a_source_without_faults(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    assert (list_held(lake, (source(BAD),)), show_held(lake, (source(BAD),))) == ([], [])
    assert replay(lake, (source(BAD),), as_of=at(9)) == []


@pytest.mark.parametrize("since", [-1, 0, 0.5])
def test_a_bad_row_that_is_read_again_is_held_once(lake: Lake, since: float) -> None:
    ingest(lake, source(BAD), 4, since)
    assert len(show_held(lake, (source(BAD),))) == 2


def test_a_row_without_a_known_at_is_held_once_though_every_range_brings_it(lake: Lake) -> None:
    frame = pl.concat([BAD, rows(("d", None, 1.0), ("e", 4, 1.0), ("f", 5, 1.0), ("g", 6, 1.0))])
    for until in (4, 5, 6):
        ingest(lake, source(frame), until)
    assert len(show_held(lake, (source(frame),))) == 3


def test_an_equal_row_of_another_source_is_another_row(lake: Lake) -> None:
    other = replace(source(BAD), name="others")
    ingest(lake, other, 3)
    ids = [lake.scan(f"quarantine/{name}").collect()["id"].to_list() for name in ("readings", "others")]
    assert not set(ids[0]) & set(ids[1])


def test_a_replay_brings_back_what_passes_now_and_keeps_the_rest(lake: Lake) -> None:
    done = again(lake, limit=600)
    assert (done.rows, done.passed, done.written, done.kept) == (2, 1, 1, 1)
    assert raw(lake) == [("a", 10.0), ("b", 500.0)]
    assert [json.loads(row.row)["key"] for row in show_held(lake, (source(BAD),))] == ["c"]


def test_what_stays_says_todays_reason(lake: Lake) -> None:
    assert again(lake, limit=600).reasons == ("reading: less_than_or_equal_to(600) (1)",)
    (row,) = show_held(lake, (source(BAD),))
    assert row.reasons == ("reading: less_than_or_equal_to(600)",)


def test_a_replayed_row_is_as_it_came(lake: Lake) -> None:
    again(lake, limit=1000)
    stored = lake.scan("raw/readings").collect().sort("key")
    assert stored.equals(BAD.sort("key").select(stored.columns))


def test_a_replay_before_the_fix_changes_nothing(lake: Lake) -> None:
    before = lake.version("quarantine/readings")
    done = again(lake)
    assert (done.passed, done.kept, done.version) == (0, 2, None)
    assert lake.version("quarantine/readings") == before


def test_an_emptied_quarantine_has_nothing_to_replay(lake: Lake) -> None:
    again(lake, limit=1000)
    assert replay(lake, (source(BAD, 1000),), as_of=at(9)) == []
    assert list_held(lake, (source(BAD),)) == []


def test_a_replayed_row_does_not_undo_a_later_correction(lake: Lake) -> None:
    ingest(lake, source(rows(("b", 5, 50.0))), 6)
    done = again(lake, limit=1000)
    assert (done.passed, done.written) == (2, 1)
    assert raw(lake) == [("a", 10.0), ("b", 50.0), ("c", 900.0)]


def test_a_replay_leaves_the_cursor(lake: Lake) -> None:
    again(lake, limit=1000)
    assert lake.cursor("raw/readings") == at(3)


def test_rows_that_come_while_a_replay_runs_stay_held(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = Lake.merge

    def late(self: Lake, table: str, frame: pl.DataFrame, **how: Any) -> Any:
        monkeypatch.setattr(Lake, "merge", merge)
        ingest(lake, source(rows(("e", 5, 999.0), ("f", 5, 1.0))), 6)
        return merge(self, table, frame, **how)

    monkeypatch.setattr(Lake, "merge", late)
    again(lake, limit=950)
    assert [json.loads(row.row)["key"] for row in show_held(lake, (source(BAD),))] == ["e"]


def test_one_batch_is_named_in_full_or_by_its_digest(lake: Lake) -> None:
    ingest(lake, source(rows(("d", 4, 700.0), ("e", 4, 1.0))), 5)
    earlier, _, later = lake.scan("quarantine/readings").collect().sort("known_at")["batch"]
    later = later.rsplit(":", 1)[1]
    assert len(show_held(lake, (source(BAD),), batch=later)) == 1
    assert again(lake, limit=1000, batch=earlier).passed == 2
    assert [line.batch for line in list_held(lake, (source(BAD),))] == [later]


@pytest.mark.parametrize("act", [show_held, lambda *args, **how: replay(*args, **how, as_of=START)])
def test_a_batch_that_is_not_held_is_an_error_that_lists_those_that_are(lake: Lake, act: Callable[..., Any]) -> None:
    with pytest.raises(NoDataError, match=r"No batch 'nothing' is in quarantine. There are [0-9a-f]{16}"):
        act(lake, (source(BAD),), batch="nothing")


def test_rows_whose_types_are_no_longer_the_schemas_stay_and_say_so(lake: Lake) -> None:
    retyped = replace(source(BAD), schema=at_most(1000, pl.Int64))
    (done,) = replay(lake, (retyped,), as_of=at(9))
    assert (done.passed, done.kept) == (0, 2)
    assert "the column reading is Float64, not Int64" in done.reasons[0]


def test_rows_of_two_shapes_are_replayed_together(lake: Lake) -> None:
    wider = rows(("d", 4, 700.0), ("e", 4, 1.0)).with_columns(note=pl.lit("new"))
    ingest(lake, source(wider), 5)
    done = again(lake, limit=1000)
    assert (done.passed, done.kept) == (3, 0)
    assert lake.scan("raw/readings").select("key", "note").sort("key").collect()["note"].to_list() == [
        *[None] * 3,
        *["new"] * 2,
    ]


KILLED = """
import os, signal, sys
from datetime import datetime
sys.path.insert(0, {tests!r})
from test_quarantine import BAD, Lake, at, replay, source
def dying(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
Lake.replace = dying
replay(Lake({root!r}), (source(BAD, 600),), as_of=at(9))
"""


def test_a_replay_killed_between_its_two_commits_is_healed_by_the_next(lake: Lake) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), root=lake.root)
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert raw(lake) == [("a", 10.0), ("b", 500.0)]
    done = again(lake, limit=600)
    assert (done.passed, done.written, done.kept) == (1, 0, 1)
    assert raw(lake) == [("a", 10.0), ("b", 500.0)]
