"""Backfill: partition by partition, restartable, and in the end what one ingest would have left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import Source
from millrace.cli import main
from millrace.console import SilentProgress
from millrace.errors import BusyError, MillraceError, SourceError, UseCaseError
from millrace.lake import Lake
from pipelines import data
from pipelines.backfill import Backfilled, backfill, partitions
from pipelines.workspace import Workspace, open_workspace

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "cases"
FIRST, LAST = datetime(2023, 12, 31, 6, tzinfo=UTC), datetime(2024, 1, 10, tzinfo=UTC)


class Told(SilentProgress):
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.total, self.notes = 0, list[str]()

    def start(self, what: str, total: int = 1) -> None:
        self.total += total

    def advance(self, note: str = "") -> None:
        self.notes.append(note)


class Gauge:
    """A source of one row a day at noon, but for the days that a test takes away."""

    def __init__(self) -> None:
        self.silent: set[int] = set()
        self.broken: set[int] = set()

    def read(self, since: datetime, until: datetime) -> pl.DataFrame:
        days = [datetime(2024, 1, day, 12, tzinfo=UTC) for day in range(1, 32) if day not in self.silent]
        found = [at for at in days if since < at <= until]
        if any(at.day in self.broken for at in found):
            raise OSError("the gauge fell off")
        times = pl.Series("known_at", found, pl.Datetime("us", "UTC"))
        return pl.DataFrame({"event_time": times, "known_at": times, "key": [f"{at:%d}" for at in found]}).cast(
            {"key": pl.String}
        )


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """An empty platform for the taxi use case, which the environment names as well."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    with open_workspace("taxi") as workspace:
        yield workspace


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


@pytest.fixture
def gauged(ws: Workspace, gauge: Gauge) -> Workspace:
    """That platform with the gauge as one more source; it has no feature."""
    source = Source("gauge", gauge.read, lambda: pa.DataFrameSchema({"key": pa.Column(pl.String)}), key=("key",))
    return replace(ws, use_case=replace(ws.use_case, sources=(*ws.use_case.sources, source)))


def fill(ws: Workspace, *only: str, start: datetime = FIRST, until: datetime = LAST, **options: Any) -> Backfilled:
    options = {"by": "day", "progress": SilentProgress()} | options
    return backfill(ws, start=start, until=until, only=only, **options)


def rows(lake: Lake, table: str) -> pl.DataFrame:
    frame = lake.scan(table).collect()
    return frame.select(sorted(frame.columns)).sort(pl.all())


def days(ws: Workspace) -> list[str]:
    return sorted(ws.lake.scan("raw/gauge").collect()["key"])


@pytest.mark.parametrize(
    ("by", "start", "until", "cuts"),
    [
        ("day", "2024-01-30T06:00", "2024-02-01T00:00", ["01-30T06", "01-31T00", "02-01T00"]),
        ("week", "2024-01-03T00:00", "2024-01-17T12:00", ["01-03T00", "01-08T00", "01-15T00", "01-17T12"]),
        ("month", "2024-01-31T00:00", "2024-04-01T00:00", ["01-31T00", "02-01T00", "03-01T00", "04-01T00"]),
    ],
)
def test_a_stretch_is_cut_at_the_calendar(by, start, until, cuts):
    spans = partitions(*(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, until)), by)
    assert [f"{at:%m-%dT%H}" for at in (spans[0][0], *(last for _, last in spans))] == cuts


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2024, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001  # hypothesis adds the zone
    st.timedeltas(timedelta(microseconds=1), timedelta(days=200)),
    st.sampled_from(["day", "week", "month"]),
)
def test_partitions_cover_the_stretch_once_and_a_longer_one_has_the_same(start, length, by):
    spans = partitions(start, start + length, by)
    assert (spans[0][0], spans[-1][1]) == (start, start + length)
    assert all(first < last for first, last in spans)
    assert all(one[1] == next_one[0] for one, next_one in pairwise(spans))
    assert partitions(start, start + length + timedelta(days=40), by)[: len(spans) - 1] == spans[:-1]


def test_a_stretch_that_ends_before_it_begins_is_refused():
    with pytest.raises(MillraceError, match="nothing to backfill"):
        partitions(LAST, FIRST, "day")


def test_a_backfill_leaves_what_one_ingest_leaves(ws, tmp_path):
    done = fill(ws, by="week")
    with open_workspace("taxi", tmp_path / "other") as other:
        data.ingest(other, as_of=LAST, since=FIRST)
        fresh = data.materialize(other, as_of=LAST)
        for table in ("raw/planned", "raw/done", "features/recent"):
            assert rows(ws.lake, table).equals(rows(other.lake, table))
        assert done.fresh == fresh
        assert ws.lake.cursor("raw/done") == other.lake.cursor("raw/done") == LAST


def test_the_database_knows_it_as_an_ingest(ws):
    done = fill(ws, by="month")
    last = ws.db.runs("taxi", "ingest")[0]
    assert (last.as_of, last.state, last.detail["rows"]) == (LAST, "done", sum(source.rows for source in done.sources))


def test_progress_counts_every_partition_of_every_source(gauged):
    told = Told()
    fill(gauged, "planned", "gauge", progress=told)
    assert (told.total, len(told.notes)) == (20, 20)
    assert told.notes[3] == "gauge 2024-01-02: 1 rows"


def test_what_is_done_is_skipped_when_it_is_typed_again(gauged):
    first, again = fill(gauged, "gauge"), fill(gauged, "gauge")
    assert [(filled.partitions, filled.skipped, filled.rows) for filled in first.sources] == [(10, 0, 9)]
    assert [(filled.partitions, filled.skipped, filled.rows) for filled in again.sources] == [(0, 10, 0)]


def test_a_longer_stretch_does_only_what_is_new(gauged):
    fill(gauged, "gauge")
    longer = fill(gauged, "gauge", until=LAST + timedelta(days=2))
    assert [(filled.partitions, filled.skipped) for filled in longer.sources] == [(2, 10)]


def test_again_does_everything_once_more_and_changes_nothing(gauged):
    fill(gauged, "gauge")
    again = fill(gauged, "gauge", again=True)
    assert [(filled.partitions, filled.rows, filled.written) for filled in again.sources] == [(10, 9, 0)]


def test_what_is_no_longer_in_the_lake_is_not_done(gauged, tmp_path):
    fill(gauged, "gauge")
    emptied = replace(gauged, lake=Lake(str(tmp_path / "empty")))
    assert fill(emptied, "gauge").sources[0].rows == 9


def test_a_partition_that_fails_is_named_and_those_before_it_stay(gauged, gauge):
    gauge.broken = {5}
    with pytest.raises(SourceError, match=r"OSError: the gauge fell off.*2024-01-05 00:00 to 2024-01-06 00:00.*again"):
        fill(gauged, "gauge")
    assert days(gauged) == ["01", "02", "03", "04"]
    gauge.broken = set()
    assert [(filled.partitions, filled.skipped) for filled in fill(gauged, "gauge").sources] == [(5, 5)]
    assert days(gauged) == [f"{day:02}" for day in range(1, 10)]


def test_the_next_ingest_continues_at_the_end_though_some_days_were_empty(gauged, gauge):
    gauge.silent = {2, 8, 9}
    fill(gauged, "gauge", accept=("gauge",))
    assert gauged.lake.cursor("raw/gauge") == LAST


def test_a_gap_before_the_stretch_stays_for_the_next_ingest(gauged):
    before = datetime(2024, 1, 2, tzinfo=UTC)
    fill(gauged, "gauge", until=before)
    fill(gauged, "gauge", start=datetime(2024, 1, 5, tzinfo=UTC))
    assert gauged.lake.cursor("raw/gauge") == before


def test_older_rows_do_not_take_the_platform_back(ws):
    fill(ws, by="month", start=datetime(2024, 1, 8, tzinfo=UTC))
    older = fill(ws, by="month", until=datetime(2024, 1, 8, tzinfo=UTC))
    assert older.as_of == LAST


def test_features_wait_for_the_sources_that_they_read(ws):
    done = fill(ws, "planned")
    assert (done.waits_for, done.tables, done.as_dict()["views"]) == (("done",), (), [])


def test_an_unknown_source_is_told_with_the_known_ones(ws):
    with pytest.raises(UseCaseError, match=r"no source plan, tips\. It has planned, done\."):
        fill(ws, "plan", accept=("tips",))


def test_a_second_backfill_beside_the_first_is_refused(ws):
    with ws.db.lease("backfill taxi"), pytest.raises(BusyError):
        fill(ws)


KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from millrace.console import SilentProgress
from millrace.lake import Lake
from pipelines.backfill import backfill
from pipelines.workspace import open_workspace

home, where, left = sys.argv[1], sys.argv[4], int(sys.argv[5])
start, until = map(datetime.fromisoformat, sys.argv[2:4])

def deadly(act):
    def call(*args, **kwargs):
        global left
        done, left = act(*args, **kwargs), left - 1
        return done if left else os.kill(os.getpid(), signal.SIGKILL)
    return call

if where == "after a partition":
    SilentProgress.advance = deadly(SilentProgress.advance)
else:  # the lake has the rows, the database does not know
    Lake.merge = deadly(Lake.merge)
with open_workspace("taxi", Path(home)) as ws:
    backfill(ws, start=start, until=until, by="day", progress=SilentProgress())
"""


@pytest.mark.parametrize(("where", "countdown", "done"), [("after a partition", 4, 4), ("within a partition", 3, 3)])
def test_a_backfill_that_was_killed_goes_on_where_it_was(ws, tmp_path, where, countdown, done):
    until = datetime(2024, 1, 4, tzinfo=UTC)
    stretch = [FIRST.isoformat(), until.isoformat()]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "home"), *stretch, where, str(countdown)]
    died = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr
    after = fill(ws, until=until)
    assert sum(filled.skipped for filled in after.sources) == done
    with open_workspace("taxi", tmp_path / "other") as other:
        fill(other, until=until)
        for table in ("raw/planned", "raw/done", "features/recent"):
            assert rows(ws.lake, table).equals(rows(other.lake, table))


def test_the_command_says_what_it_did_as_json(ws, capsys):
    stretch = ("--from", "2024-01-01", "--until", "2024-01-15", "--by", "week")
    with pytest.raises(SystemExit) as end:
        main(["backfill", "taxi", *stretch, "--source", "planned", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert (shown["partitions"], shown["skipped"], shown["waits_for"]) == (2, 0, ["done"])
    assert shown["sources"][0]["rows"] == 14 * 72


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--by", "year"), 2, "'year' is not one of"),
        (("--until", "2023-01-01"), 1, "Give a --from before --until"),
        (("--source", "nothing"), 2, "It has planned, done"),
    ],
)
def test_bad_input_is_one_paragraph_and_an_exit_code(ws, capsys, arguments, code, says):
    with pytest.raises(SystemExit) as end:
        main(["backfill", "taxi", "--from", "2024-01-01", "--until", "2024-01-02", *arguments])
    assert (end.value.code, says in capsys.readouterr().err) == (code, True)
