"""Ingesting a source: validated, exactly once, newest known wins, and it continues where it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from millrace import Source
from millrace.errors import SourceError
from millrace.lake import Lake
from millrace.settings import Settings
from pipelines.ingest import IngestResult, ingest_source

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def rows(*values: tuple[str | None, float, float, float | None]) -> pl.DataFrame:
    """Rows as (key, event hour, known hour, reading)."""
    return pl.DataFrame(
        {
            "key": [key for key, *_ in values],
            "event_time": [at(event) for _, event, _, _ in values],
            "known_at": [at(known) for _, _, known, _ in values],
            "reading": [reading for *_, reading in values],
        },
        schema={"key": pl.String, "event_time": INSTANT, "known_at": INSTANT, "reading": pl.Float64},
    )


def schema() -> Any:
    return pa.DataFrameSchema(
        {
            "key": pa.Column(pl.String, pa.Check.str_matches("^[a-z]+$")),
            "reading": pa.Column(pl.Float64, pa.Check.in_range(0, 100), nullable=True),
        }
    )


class Shelf:
    """A source whose rows a test puts there, which remembers what it was asked for."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.asked: list[tuple[datetime, datetime]] = []

    def read(self, since: datetime, until: datetime) -> pl.DataFrame:
        self.asked.append((since, until))
        return self.frame


Ingest = Callable[..., IngestResult]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(rows(("a", 0, 1, 10.0), ("b", 0, 2, 20.0), ("c", 0, 30, 30.0)))


@pytest.fixture
def ingest(shelf: Shelf, lake: Lake) -> Ingest:
    source = Source("readings", shelf.read, schema, key=("key",))

    def run(as_of: float, *, since: float | None = None, overlap: float = 0) -> IngestResult:
        mine = replace(source, overlap=timedelta(hours=overlap))
        return ingest_source(mine, lake, Settings(), since=None if since is None else at(since), as_of=at(as_of))

    return run


def stored(lake: Lake) -> list[tuple[Any, ...]]:
    return lake.scan("raw/readings").select("key", "reading").sort("key").collect().rows()


def test_only_what_was_known_by_as_of_is_ingested(ingest: Ingest, lake: Lake) -> None:
    result = ingest(2)
    assert (result.rows, result.written, result.quarantined, result.version) == (2, 2, 0, 0)
    assert stored(lake) == [("a", 10.0), ("b", 20.0)]


def test_the_first_ingest_reads_from_1970(ingest: Ingest, shelf: Shelf) -> None:
    ingest(2)
    assert shelf.asked == [(datetime(1970, 1, 1, tzinfo=UTC), at(2))]


def test_the_next_continues_where_the_last_ended_less_the_overlap(ingest: Ingest, shelf: Shelf) -> None:
    ingest(2)
    ingest(40, overlap=1)
    assert shelf.asked[-1] == (at(1), at(40))


def test_rows_read_again_in_the_overlap_change_nothing(ingest: Ingest, lake: Lake) -> None:
    ingest(2)
    result = ingest(40, overlap=1.5)
    assert (result.rows, result.written) == (3, 1)
    assert stored(lake) == [("a", 10.0), ("b", 20.0), ("c", 30.0)]


def test_the_same_batch_twice_changes_nothing_and_says_so(ingest: Ingest, lake: Lake) -> None:
    first, again = ingest(2, since=0), ingest(2, since=0)
    assert (first.repeated, again.repeated, again.written) == (False, True, 0)
    assert (again.batch, again.version) == (first.batch, first.version)


def test_the_order_of_a_batchs_rows_does_not_matter(ingest: Ingest, shelf: Shelf) -> None:
    first = ingest(2, since=0)
    shelf.frame = shelf.frame.reverse()
    assert ingest(2, since=0).batch == first.batch


def test_a_correction_updates_its_row_and_the_earlier_version_keeps_the_old(
    ingest: Ingest, shelf: Shelf, lake: Lake
) -> None:
    before = ingest(2)
    shelf.frame = rows(("a", 0, 3, 11.0))
    assert ingest(4).written == 1
    assert stored(lake) == [("a", 11.0), ("b", 20.0)]
    old = lake.scan("raw/readings", version=before.version).filter(key="a").collect()
    assert old["reading"].to_list() == [10.0]


def test_nothing_new_writes_nothing(ingest: Ingest) -> None:
    ingest(2)
    result = ingest(3)
    assert (result.rows, result.written, result.version, result.repeated) == (0, 0, 0, False)


def test_a_source_without_rows_yet_has_no_version(ingest: Ingest) -> None:
    assert ingest(0).version is None


def test_a_backfill_does_not_move_the_cursor_over_a_gap(ingest: Ingest, shelf: Shelf, lake: Lake) -> None:
    ingest(2)
    shelf.frame = rows(("z", 0, 50, 1.0))
    ingest(60, since=40)
    assert lake.cursor("raw/readings") == at(2)


def test_an_ingest_of_the_past_does_not_move_the_cursor_back(ingest: Ingest, lake: Lake) -> None:
    ingest(40)
    ingest(2, since=0)
    assert lake.cursor("raw/readings") == at(40)


def test_a_bad_row_is_quarantined_with_a_reason_for_each_column(ingest: Ingest, shelf: Shelf, lake: Lake) -> None:
    shelf.frame = rows(("a", 0, 1, 10.0), ("B9", 0, 1, 500.0), (None, 0, 1, 1.0))
    result = ingest(2)
    assert (result.written, result.quarantined) == (1, 2)
    bad = lake.scan("quarantine/readings").sort("row").collect()
    assert sorted(sorted(reasons) for reasons in bad["reasons"].to_list()) == [
        ["key: missing", "key: not_nullable"],
        ["key: str_matches('^[a-z]+$')", "reading: in_range(0, 100)"],
    ]
    assert bad["batch"].unique().to_list() == [result.batch]
    assert any('"reading":500.0' in row for row in bad["row"])


def test_a_retry_after_a_crash_between_quarantine_and_table_heals(
    ingest: Ingest, shelf: Shelf, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.frame = rows(("a", 0, 1, 10.0), ("b", 0, 1, 500.0))
    merge = Lake.merge

    def interrupted(self: Lake, table: str, frame: pl.DataFrame, **how: Any) -> Any:
        if table.startswith("raw/"):
            raise KeyboardInterrupt
        return merge(self, table, frame, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest(2)
    assert not lake.exists("raw/readings")
    assert ingest(2).written == 1
    assert lake.scan("quarantine/readings").collect().height == 1


BATCH_FAULTS = {
    "a missing column": (lambda frame: frame.drop("reading"), "the column reading is missing"),
    "a renamed column": (lambda frame: frame.rename({"reading": "value"}), "the column reading is missing"),
    "a retyped column": (lambda frame: frame.cast({"reading": pl.String}), "the column reading is String, not Float64"),
    "no event time": (lambda frame: frame.drop("event_time"), "the column event_time is missing"),
    "a time without a zone": (
        lambda frame: frame.with_columns(pl.col("known_at").dt.replace_time_zone(None)),
        "the column known_at is Datetime",
    ),
    "bad rows only": (
        lambda frame: frame.with_columns(reading=pl.lit(500.0)),
        "3 of 3 rows break it: reading: in_range",
    ),
}


@pytest.mark.parametrize("fault", list(BATCH_FAULTS))
def test_a_batch_with_a_fault_of_its_own_is_refused_whole(ingest: Ingest, shelf: Shelf, lake: Lake, fault: str) -> None:
    change, message = BATCH_FAULTS[fault]
    shelf.frame = change(shelf.frame)
    with pytest.raises(SourceError, match="breaks its schema") as error:
        ingest(40)
    assert message in str(error.value)
    assert lake.tables() == []


def test_more_bad_rows_than_allowed_stop_the_batch(ingest: Ingest, shelf: Shelf, lake: Lake) -> None:
    shelf.frame = pl.concat(
        [rows(*[(chr(97 + n % 26) * (n // 26 + 1), 0, 1, 999.0 if n % 4 else 1.0) for n in range(100)])]
    )
    with pytest.raises(SourceError, match="75 of 100 rows break it"):
        ingest(2)
    assert lake.tables() == []


def test_a_source_says_itself_how_many_bad_rows_it_may_have(shelf: Shelf, lake: Lake) -> None:
    shelf.frame = rows(*[("a" * (number + 1), 0, 1, 999.0 if number % 4 == 0 else 1.0) for number in range(100)])
    source = Source("readings", shelf.read, schema, key=("key",), max_bad_share=0.25)
    assert ingest_source(source, lake, Settings(), since=START, as_of=at(2)).quarantined == 25
    with pytest.raises(SourceError, match="25 of 100 rows break it"):
        ingest_source(replace(source, max_bad_share=0.24), lake, Settings(), since=START, as_of=at(3))


@pytest.fixture
def loose(ingest: Ingest, shelf: Shelf, lake: Lake) -> Ingest:
    """A table that has the column `note`, of which its schema knows nothing; the shelf then holds one later row."""
    shelf.frame = shelf.frame.with_columns(note=pl.lit("x"), size=pl.lit(1))
    ingest(2)
    shelf.frame = rows(("d", 0, 3, 1.0)).with_columns(note=pl.lit("x"), size=pl.lit(1))
    return ingest


def test_a_column_that_only_the_table_has_stops_the_batch_and_its_new_name_is_guessed(
    loose: Ingest, shelf: Shelf
) -> None:
    shelf.frame = shelf.frame.rename({"note": "notes"}).with_columns(comment=pl.lit("y"), number=pl.lit(1))
    with pytest.raises(SourceError, match=r"the column note is missing \(was it renamed to notes\?\)") as error:
        loose(4)
    assert "--accept readings" in error.value.todo


def test_a_column_without_a_new_one_of_its_kind_is_just_missing(loose: Ingest, shelf: Shelf) -> None:
    shelf.frame = shelf.frame.drop("note").with_columns(number=pl.lit(1))
    with pytest.raises(SourceError, match=r"the column note is missing \(the table has it\)"):
        loose(4)


def test_a_renamed_column_of_the_schema_is_guessed_too(ingest: Ingest, shelf: Shelf) -> None:
    shelf.frame = shelf.frame.rename({"reading": "value"})
    with pytest.raises(SourceError, match=r"the column reading is missing \(was it renamed to value\?\)"):
        ingest(4)


def test_a_column_of_another_type_than_the_tables_stops_the_batch(loose: Ingest, shelf: Shelf, lake: Lake) -> None:
    shelf.frame = pl.concat([shelf.frame, rows(("B9", 0, 3, 1.0)).with_columns(note=pl.lit("x"), size=pl.lit(1))])
    shelf.frame = shelf.frame.with_columns(pl.col("size").cast(pl.String))
    with pytest.raises(SourceError, match="the column size is String, not Int32 as in the table"):
        loose(4)
    assert lake.tables() == ["raw/readings"]


def test_a_column_that_was_dropped_on_purpose_is_null_in_accepted_rows(shelf: Shelf, loose: Ingest, lake: Lake) -> None:
    shelf.frame = rows(("d", 0, 3, 1.0), ("a", 0, 3, 2.0))
    source = Source("readings", shelf.read, schema, key=("key",))
    assert ingest_source(source, lake, Settings(), since=None, as_of=at(4), accept=True).written == 2
    notes = lake.scan("raw/readings").sort("key").collect()
    assert notes.filter(key="d")["note"].to_list() == [None]
    assert notes["reading"].to_list() == [2.0, 20.0, 1.0]


def test_accepting_does_not_let_a_broken_schema_pass(ingest: Ingest, shelf: Shelf, lake: Lake) -> None:
    source = Source("readings", lambda since, until: shelf.frame.drop("reading"), schema, key=("key",))
    with pytest.raises(SourceError, match="the column reading is missing"):
        ingest_source(source, lake, Settings(), since=None, as_of=at(4), accept=True)


def test_a_source_that_fails_is_named_with_its_reason(ingest: Ingest, shelf: Shelf) -> None:
    shelf.read = lambda since, until: pl.DataFrame({"a": [1]})["b"]  # type: ignore[method-assign,assignment,return-value]  # a fault is meant
    source = Source("broken", shelf.read, schema, key=("key",))
    with pytest.raises(SourceError, match=r"source 'broken' cannot be read: ColumnNotFoundError"):
        ingest_source(source, Lake("/nowhere"), Settings(), since=None, as_of=at(1))


def test_a_source_that_returns_no_frame_is_refused(lake: Lake) -> None:
    source = Source("broken", lambda since, until: [1], schema, key=("key",))  # type: ignore[arg-type,return-value]  # a fault is meant
    with pytest.raises(SourceError, match="returned a list, not a polars DataFrame"):
        ingest_source(source, lake, Settings(), since=None, as_of=at(1))


def test_two_schedulers_at_once_leave_what_one_leaves(ingest: Ingest, lake: Lake) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ingest(40), range(4)))
    assert stored(lake) == [("a", 10.0), ("b", 20.0), ("c", 30.0)]
    assert sum(result.written for result in results) == 3
    assert lake.cursor("raw/readings") == at(40)


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
import pandera.polars as pa
import polars as pl
from millrace import Source
from millrace.lake import Lake
from millrace.settings import Settings
from pipelines.ingest import ingest_source

known = datetime(2024, 1, 1, tzinfo=UTC)
rows = pl.DataFrame({"key": ["a", "B"], "event_time": [known] * 2, "known_at": [known] * 2})
schema = lambda: pa.DataFrameSchema({"key": pa.Column(pl.String, pa.Check.str_matches("^[a-z]+$"))})
source = Source("readings", lambda since, until: rows, schema, key=("key",))
"""


def test_a_retry_after_kill_9_leaves_what_one_run_leaves(tmp_path: Path) -> None:
    run = "ingest_source(source, Lake(sys.argv[1]), Settings(), since=None, as_of=known)"
    die = (
        "merge = Lake.merge\n"
        "def dying(lake, table, *rows, **how):\n"
        "    if table.startswith('raw/'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return merge(lake, table, *rows, **how)\n"
        "Lake.merge = dying"
    )
    command = [sys.executable, "-c", f"{KILLED}\n{die}\n{run}", str(tmp_path)]
    died = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL, died.stderr
    lake = Lake(str(tmp_path))
    assert lake.tables() == ["quarantine/readings"]
    names: dict[str, Any] = {}
    exec(KILLED, names)
    assert ingest_source(names["source"], lake, Settings(), since=None, as_of=START).written == 1
    assert lake.scan("quarantine/readings").collect().height == 1
