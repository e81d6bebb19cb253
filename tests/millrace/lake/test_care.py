"""The care of the lake: damage is found, compaction changes no row, a vacuum keeps what it is told to keep."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import LakeError
from millrace.lake import Lake
from millrace.lake.care import compact, vacuum, verify

START = datetime(2024, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
TABLE = "raw/x"
NOW = timedelta(0)


def rows(keys: range, *, known: int = 0, value: float = 1.0) -> pl.DataFrame:
    """One row a key, all known at an hour."""
    return pl.DataFrame(
        {
            "key": list(keys),
            "event_time": [START] * len(keys),
            "known_at": [START + timedelta(hours=known)] * len(keys),
            "value": [value + key for key in keys],
            "tags": [[str(key)] if key % 2 else None for key in keys],
        },
        schema={"key": pl.Int64, "event_time": INSTANT, "known_at": INSTANT, "value": pl.Float64, "tags": list[str]},
    ).with_columns(pl.col("tags").cast(pl.List(pl.String)))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def lived(lake: Lake) -> Lake:
    """Three batches of new rows, one of corrections, and one that brings nothing."""
    for number in range(3):
        lake.merge(TABLE, rows(range(number * 10, number * 10 + 10)), key=["key"], batch=f"new {number}")
    lake.merge(TABLE, rows(range(5, 8), known=1, value=9.0), key=["key"], batch="corrections")
    lake.merge(TABLE, rows(range(5, 8), known=1, value=9.0), key=["key"], batch="nothing")
    return lake


def data_files(lake: Lake) -> list[Path]:
    return [Path(lake.uri(TABLE)) / path for path in sorted(lake.files(TABLE))]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def test_a_whole_table_is_proven_back_to_its_first_batch(lived: Lake) -> None:
    found = verify(lived, TABLE)
    assert found.ok
    assert (found.version, found.batches, found.unproven, found.beyond) == (4, 5, 0, 0)
    assert found.files == len(data_files(lived))


def test_one_flipped_byte_is_found_in_twenty_of_twenty_places(lived: Lake) -> None:
    random_places, files, found = random.Random(7), data_files(lived), 0
    for _ in range(20):
        file = random_places.choice(files)
        place = random_places.randrange(file.stat().st_size)
        flip(file, place)
        result = verify(lived, TABLE)
        found += any(file.name in fault for fault in result.faults)
        flip(file, place)
    assert found == 20
    assert verify(lived, TABLE).ok


def test_a_flip_in_a_file_without_a_seal_is_found_by_its_batch(lake: Lake) -> None:
    lake.append(TABLE, rows(range(1000)), batch="b")
    seal = next((Path(lake.uri(TABLE)) / "_seals").iterdir())
    seal.unlink()
    assert verify(lake, TABLE).ok
    flip(data_files(lake)[0], 100)
    assert "Version 0" in verify(lake, TABLE).faults[0]


def test_a_batch_that_was_stored_otherwise_than_it_came_is_found(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace.lake import log

    with monkeypatch.context() as patch:
        patch.setattr(log, "content_digest", lambda *_: "another")
        lake.append(TABLE, rows(range(3)), batch="b")
    assert verify(lake, TABLE).faults == ("Version 0 does not have the rows that it was given (b).",)


def test_a_file_that_is_gone_is_named(lived: Lake) -> None:
    file = data_files(lived)[0]
    file.unlink()
    assert verify(lived, TABLE).faults[0] == f"The file {file.name} of the newest version is gone."


def test_rows_without_seal_and_digest_are_counted_as_unproven(lake: Lake) -> None:
    lake.append(TABLE, rows(range(3)))
    for seal in (Path(lake.uri(TABLE)) / "_seals").iterdir():
        seal.write_text('{"cut')
    found = verify(lake, TABLE)
    assert (found.ok, found.unproven, found.sealed) == (True, 1, 0)


def test_after_a_vacuum_the_batches_that_cannot_be_checked_are_counted(lived: Lake) -> None:
    vacuum(lived, TABLE, older_than=NOW)
    found = verify(lived, TABLE)
    assert found.ok
    assert (found.unproven, found.beyond) == (0, 2)


def test_a_compaction_is_an_anchor_behind_which_nothing_is_recomputed(lived: Lake) -> None:
    compact(lived, TABLE)
    assert (verify(lived, TABLE).batches, verify(lived, TABLE).ok) == (0, True)


STEPS = st.one_of(
    st.tuples(st.just("merge"), st.sets(st.integers(0, 9), min_size=1), st.integers(0, 5)),
    st.tuples(st.sampled_from(["compact", "vacuum", "again"])),
)


@settings(max_examples=15)
@given(st.lists(STEPS, min_size=1, max_size=8))
def test_whatever_is_done_the_newest_known_rows_stand_and_the_table_verifies(steps: list[tuple[Any, ...]]) -> None:
    with TemporaryDirectory() as folder:
        lake, model, last = Lake(folder), dict[int, int](), None
        for number, step in enumerate(steps):
            if step[0] == "merge":
                frame = pl.concat([rows(range(key, key + 1), known=step[2]) for key in sorted(step[1])])
                last = (frame, f"b{number}")
                lake.merge(TABLE, frame, key=["key"], batch=last[1])
                model |= {key: max(step[2], model.get(key, 0)) for key in step[1]}
            elif last is not None:
                tidy = {"compact": partial(compact, lake), "vacuum": partial(vacuum, lake, older_than=NOW)}
                if step[0] in tidy:
                    tidy[step[0]](TABLE)
                else:
                    assert lake.merge(TABLE, last[0], key=["key"], batch=last[1]).repeated
        if last is None:
            return
        hours = (pl.col("known_at") - START).dt.total_hours()
        assert dict(lake.scan(TABLE).select("key", hours).collect().rows()) == model
        assert (verify(lake, TABLE).ok, verify(lake, TABLE).unproven) == (True, 0)


def test_verifying_a_table_that_is_not_there_says_so(lake: Lake) -> None:
    with pytest.raises(LakeError, match="no table"):
        verify(lake, TABLE)


def test_a_compaction_leaves_one_file_with_the_same_rows(lived: Lake) -> None:
    before = lived.scan(TABLE).sort("key").collect()
    done = compact(lived, TABLE)
    assert (done.repeated, len(data_files(lived))) == (False, 1)
    assert lived.scan(TABLE).sort("key").collect().equals(before)


def test_a_compaction_of_one_file_writes_nothing(lived: Lake) -> None:
    first, again = compact(lived, TABLE), compact(lived, TABLE)
    assert (again.repeated, again.version) == (True, first.version)


def test_a_compaction_keeps_batches_cursors_and_changes(lived: Lake) -> None:
    lived.append(TABLE, rows(range(90, 91)), batch="last", cursor=START)
    compact(lived, TABLE)
    assert lived.cursor(TABLE) == START
    assert lived.append(TABLE, rows(range(90, 91)), batch="last").repeated
    assert lived.changes(TABLE, since=lived.version(TABLE) - 1).drop("tags").collect().is_empty()


def test_two_compactions_and_two_writers_at_once_lose_and_double_nothing(lived: Lake) -> None:
    work = [lambda: compact(lived, TABLE)] * 2
    work += [
        lambda number=number: lived.merge(  # type: ignore[misc]  # bound on purpose
            TABLE, rows(range(number, number + 10)), key=["key"], batch=f"late {number}"
        )
        for number in (100, 200)
    ]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()
    keys = lived.scan(TABLE).select("key").sort("key").collect()["key"].to_list()
    assert keys == [*range(30), *range(100, 110), *range(200, 210)]


def test_a_kept_version_reads_the_same_after_compaction_and_vacuum(lived: Lake) -> None:
    kept = {number: lived.scan(TABLE, version=number).sort("key").collect() for number in (1, 3)}
    compact(lived, TABLE)
    vacuum(lived, TABLE, keep=kept, older_than=NOW)
    for number, frame in kept.items():
        assert lived.scan(TABLE, version=number).sort("key").collect().equals(frame)


def test_a_version_that_was_not_kept_says_what_happened(lived: Lake) -> None:
    compact(lived, TABLE)
    vacuum(lived, TABLE, older_than=NOW)
    with pytest.raises(LakeError, match=r"version 2: 3 of its files are gone.*lake history"):
        lived.scan(TABLE, version=2)
    with pytest.raises(LakeError, match="files are gone"):
        lived.changes(TABLE, since=2)


def test_what_was_replaced_within_the_retention_stays(lived: Lake) -> None:
    compact(lived, TABLE)
    assert vacuum(lived, TABLE, older_than=timedelta(hours=2)).files == 0
    assert lived.scan(TABLE, version=2).collect().height == 30


def test_a_dry_run_deletes_nothing_and_says_what_it_would(lived: Lake) -> None:
    compact(lived, TABLE)
    dry, real = vacuum(lived, TABLE, older_than=NOW, dry_run=True), None
    assert lived.scan(TABLE, version=2).collect().height == 30
    real = vacuum(lived, TABLE, older_than=NOW)
    assert (dry.files, dry.bytes) == (real.files, real.bytes)
    assert dry.bytes > 0


def test_a_version_to_keep_that_never_was_is_left_out(lived: Lake) -> None:
    assert vacuum(lived, TABLE, keep=[1, 99], older_than=NOW).kept == (1,)


def test_the_file_of_a_dead_writer_goes_once_it_is_old_and_one_in_flight_stays(lived: Lake) -> None:
    folder, old = Path(lived.uri(TABLE)), START.timestamp()
    for name in ("part-dead.parquet", "part-young.parquet"):
        (folder / name).write_bytes(b"half a file")
    os.utime(folder / "part-dead.parquet", (old, old))
    vacuum(lived, TABLE, older_than=timedelta(days=1))
    assert not (folder / "part-dead.parquet").exists()
    vacuum(lived, TABLE, older_than=NOW)
    assert (folder / "part-young.parquet").exists()


def test_the_log_outlives_deltas_own_retention(lake: Lake) -> None:
    lake.append(TABLE, rows(range(2)))
    log = Path(lake.uri(TABLE)) / "_delta_log"
    for entry in log.iterdir():
        os.utime(entry, (START.timestamp(), START.timestamp()))
    for _ in range(101):  # deltalake makes a checkpoint every 100 commits and cleans the log then
        lake.append(TABLE, rows(range(1)))
    assert any("checkpoint" in entry.name for entry in log.iterdir())
    assert lake.scan(TABLE, version=0).collect().height == 2


def test_an_object_store_is_sealed_and_checked_as_a_folder_is(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}/lake")
    lake.merge(TABLE, rows(range(10)), key=["key"], batch="a")
    lake.merge(TABLE, rows(range(5), known=1), key=["key"], batch="b")
    assert (verify(lake, TABLE).ok, verify(lake, TABLE).sealed) == (True, 2)
    file = tmp_path / "lake" / TABLE / min(lake.files(TABLE))
    flip(file, 50)
    assert file.name in verify(lake, TABLE).faults[0]
