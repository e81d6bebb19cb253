"""The outcome log: what is acknowledged arrives in the lake, once, whoever repeats it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.errors import LakeError
from millrace.lake import Lake
from millrace.outcome_log import COLUMNS, TABLE, Outcome, OutcomeLog, Recorded, ship

AT = datetime(2013, 4, 1, 6, 30, 0, 250, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATE = Outcome("1", AT, prediction_id="a")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outcomes" / "late.db"


@pytest.fixture
def log(path: Path) -> Iterator[OutcomeLog]:
    log = OutcomeLog(path)
    yield log
    log.close()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def shipped(lake: Lake) -> pl.DataFrame:
    return lake.scan(TABLE).collect().sort("prediction_id", "row_key", "known_at", "label")


def test_a_statement_arrives_with_every_column(log: OutcomeLog, path: Path, lake: Lake) -> None:
    log.append([LATE, Outcome("pear", AT + HOUR, row_key="UA|1", at=AT - HOUR)], received_at=AT + 2 * HOUR)
    assert ship(path, lake) == 2
    rows = shipped(lake)
    assert rows.schema == dict(COLUMNS)
    assert rows.rows() == [
        ("", "UA|1", AT - HOUR, "pear", AT + HOUR, AT + 2 * HOUR),
        ("a", "", None, "1", AT, AT + 2 * HOUR),
    ]


def test_the_same_statement_again_is_not_kept_again(log: OutcomeLog, path: Path, lake: Lake) -> None:
    assert log.append([LATE], received_at=AT) == Recorded(accepted=1)
    assert log.append([LATE, LATE], received_at=AT + HOUR) == Recorded(repeated=2)
    ship(path, lake)
    assert log.append([LATE], received_at=AT + HOUR) == Recorded(repeated=1)
    assert ship(path, lake) == 0
    assert shipped(lake)["received_at"].to_list() == [AT]


def test_another_worker_s_statement_is_known_to_be_repeated(log: OutcomeLog, path: Path) -> None:
    log.append([LATE], received_at=AT)
    other = OutcomeLog(path)
    assert other.append([LATE], received_at=AT) == Recorded(repeated=1)
    other.close()


def test_the_same_label_at_a_later_instant_is_told_as_repeated_and_kept(
    log: OutcomeLog, path: Path, lake: Lake
) -> None:
    """A correction between the two may still be on its way."""
    log.append([LATE], received_at=AT)
    assert log.append([replace(LATE, known_at=AT + HOUR)], received_at=AT) == Recorded(repeated=1)
    assert ship(path, lake) == 2


def test_a_correction_is_kept_beside_what_it_corrects(log: OutcomeLog, path: Path, lake: Lake) -> None:
    log.append([LATE], received_at=AT)
    corrects = replace(LATE, label="0", known_at=AT + HOUR)
    assert log.append([corrects], received_at=AT) == Recorded(accepted=1, corrected=1)
    ship(path, lake)
    assert shipped(lake)["label"].to_list() == ["1", "0"]


def test_a_statement_older_than_the_one_that_holds_corrects_nothing(log: OutcomeLog) -> None:
    log.append([LATE], received_at=AT)
    older = replace(LATE, label="0", known_at=AT - HOUR)
    assert log.append([older], received_at=AT) == Recorded(accepted=1)


def test_two_labels_of_one_instant_are_told_as_contradictory_and_both_kept(log: OutcomeLog) -> None:
    log.append([LATE], received_at=AT)
    assert log.append([replace(LATE, label="0")], received_at=AT) == Recorded(accepted=1, contradictory=1)


def test_names_do_not_meet_across_the_ways_of_naming(log: OutcomeLog) -> None:
    ways = [LATE, Outcome("0", AT, row_key="a"), Outcome("0", AT, row_key="a", at=AT)]
    assert log.append(ways, received_at=AT) == Recorded(accepted=3)


@pytest.mark.parametrize("order", permutations(range(3)))
def test_whatever_the_order_the_same_statements_are_kept(
    log: OutcomeLog, path: Path, lake: Lake, order: tuple[int, ...]
) -> None:
    said = [LATE, replace(LATE, label="0", known_at=AT + HOUR), replace(LATE, known_at=AT + 2 * HOUR)]
    for place in order:
        log.append([said[place]], received_at=AT)
    ship(path, lake)
    assert shipped(lake)["label"].to_list() == ["1", "0", "1"]


def test_statements_that_cannot_all_be_written_leave_none(log: OutcomeLog, path: Path, lake: Lake) -> None:
    def stops_half_way() -> Iterator[Outcome]:
        yield LATE
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        log.append(stops_half_way(), received_at=AT)
    assert ship(path, lake) == 0
    assert log.append([LATE], received_at=AT) == Recorded(accepted=1)


def test_a_disk_without_room_is_an_os_error_and_leaves_none(path: Path, lake: Lake) -> None:
    log = OutcomeLog(path)
    log.append([LATE], received_at=AT)
    connection: Any = log._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    many = [Outcome("1", AT, prediction_id=f"{number:>200}") for number in range(1_000)]
    with pytest.raises(OSError, match="full"):
        log.append(many, received_at=AT)
    connection.execute("PRAGMA max_page_count = 1000000")
    assert log.append([LATE], received_at=AT) == Recorded(repeated=1)
    assert ship(path, lake) == 1
    log.close()


def test_a_file_that_is_no_log_is_an_os_error(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(OSError, match="cannot be written"):
        OutcomeLog(path).append([LATE], received_at=AT)


def test_a_log_that_was_never_written_ships_nothing(path: Path, lake: Lake) -> None:
    assert ship(path, lake) == 0
    assert not path.exists()


class Dies:
    """A lake whose process dies after, or before, the commit."""

    def __init__(self, lake: Lake, *, after: bool) -> None:
        self._lake, self._after = lake, after

    def append(self, table: str, frame: pl.DataFrame, *, batch: str | None = None) -> Any:
        if self._after:
            self._lake.append(table, frame, batch=batch)
        raise LakeError("died")


@pytest.mark.parametrize("after", [True, False])
def test_shipping_that_died_is_finished_once_though_more_was_said_since(
    log: OutcomeLog, path: Path, lake: Lake, after: bool
) -> None:
    log.append([LATE], received_at=AT)
    with pytest.raises(LakeError):
        ship(path, Dies(lake, after=after))
    log.append([replace(LATE, prediction_id="b")], received_at=AT)
    assert ship(path, lake) == (1 if after else 2)
    assert shipped(lake)["prediction_id"].to_list() == ["a", "b"]


def test_two_that_ship_at_once_bring_each_statement_once(log: OutcomeLog, path: Path, lake: Lake) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(6):
            log.append([replace(LATE, prediction_id=f"{number}-{i}") for i in range(50)], received_at=AT)
            list(pool.map(lambda _: ship(path, lake), range(4)))
    assert shipped(lake).height == shipped(lake)["prediction_id"].n_unique() == 300


def test_statements_of_two_machines_meet_in_one_table(tmp_path: Path, lake: Lake) -> None:
    for name in ("one", "two"):
        log = OutcomeLog(tmp_path / name)
        log.append([replace(LATE, prediction_id=name)], received_at=AT)
        log.close()
        assert ship(tmp_path / name, lake) == 1
    assert shipped(lake)["prediction_id"].to_list() == ["one", "two"]


def test_what_the_lake_has_is_forgotten_in_time_but_not_what_it_lacks(log: OutcomeLog, path: Path, lake: Lake) -> None:
    log.append([LATE], received_at=AT)
    ship(path, lake)
    log.append([replace(LATE, prediction_id="b")], received_at=AT + timedelta(days=1))
    log.append([replace(LATE, prediction_id="c")], received_at=AT + timedelta(days=90, hours=1))
    ship(path, lake)
    with sqlite3.connect(path) as connection:
        kept = connection.execute("SELECT prediction_id FROM outcomes ORDER BY number").fetchall()
    assert kept == [("b",), ("c",)]
    assert shipped(lake)["prediction_id"].to_list() == ["a", "b", "c"]


def test_processes_that_open_a_new_log_at_once_all_get_their_statements_in(path: Path, lake: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda number: _written(path, number), range(24)))
    assert sum(recorded.accepted for recorded in logs) == 24
    assert ship(path, lake) == 24


def _written(path: Path, number: int) -> Recorded:
    log = OutcomeLog(path)
    try:
        return log.append([replace(LATE, prediction_id=str(number))], received_at=AT)
    finally:
        log.close()


def test_what_a_killed_process_acknowledged_arrives(path: Path, lake: Lake) -> None:
    code = f"""
        from datetime import datetime, UTC
        from pathlib import Path
        from millrace.outcome_log import Outcome, OutcomeLog
        log, at = OutcomeLog(Path({str(path)!r})), datetime(2013, 4, 1, tzinfo=UTC)
        for number in range(1_000_000):
            log.append([Outcome("1", at, prediction_id=f"{{number}}.{{part}}") for part in "ab"], received_at=at)
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 300:
            pass
        ship(path, lake)  # while the other process writes
        process.send_signal(signal.SIGKILL)
        acknowledged = [300, *(int(line) for line in process.stdout if line.endswith("\n"))][-1]
    ship(path, lake)
    ids = shipped(lake)["prediction_id"]
    assert ids.is_unique().all()
    requests = ids.str.split(".").list.first().cast(pl.Int64).value_counts()
    assert set(range(acknowledged + 1)) <= set(requests["prediction_id"])
    assert set(requests["count"]) == {2}  # whole requests only
