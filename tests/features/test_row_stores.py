"""One contract for every store of packed rows: SQLite and Redis answer alike."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from features.online_store import Entry, Mark, RowStore, entity_key, instant, layout, micros, pack, prefix, unpack
from features.redis_store import RedisRows
from features.sqlite_store import SqliteRows
from millrace.errors import FeatureError
from millrace.settings import Settings

LAYOUT = layout("view", ["key"], [("value", "Int64")])


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RowStore]:
    if request.param == "redis":
        settings: Settings = request.getfixturevalue("needs_redis")
        rows: RowStore = RedisRows(settings.redis_url, settings.redis_prefix)
    else:
        rows = SqliteRows(tmp_path / "deep" / "online.db")
    yield rows
    rows.close()


def key(name: str, of: str = LAYOUT) -> bytes:
    return entity_key(prefix(of), [name])


def entry(name: str, event: int, known: int, value: int) -> Entry:
    return Entry(key(name), event, known, pack([value]))


def values(store: RowStore, *names: str) -> list[int | None]:
    return [None if row is None else unpack(row[2])[0] for row in store.read([key(name) for name in names])]


def test_rows_come_back_with_their_times(store: RowStore) -> None:
    store.write([entry("a", 1_700_000_000_123_456, 1_700_000_000_654_321, 7)])
    assert store.read([key("a")]) == [(1_700_000_000_123_456, 1_700_000_000_654_321, pack([7]))]


def test_answers_are_in_the_order_of_the_keys(store: RowStore) -> None:
    store.write([entry("a", 1, 1, 1), entry("b", 1, 1, 2)])
    assert values(store, "b", "absent", "a", "b") == [2, None, 1, 2]


def test_no_keys_no_answers(store: RowStore) -> None:
    assert store.read([]) == []


def test_more_keys_than_one_statement_holds(store: RowStore) -> None:
    store.write(entry(f"k{n}", 1, 1, n) for n in range(1300))
    assert values(store, *(f"k{n}" for n in range(1301))) == [*range(1300), None]


def test_an_older_event_never_replaces_a_newer_one(store: RowStore) -> None:
    store.write([entry("a", 5, 5, 1)])
    store.write([entry("a", 4, 9, 2)])
    assert values(store, "a") == [1]


def test_of_equal_events_the_one_known_later_stays(store: RowStore) -> None:
    store.write([entry("a", 5, 6, 1)])
    store.write([entry("a", 5, 5, 2)])
    assert values(store, "a") == [1]
    store.write([entry("a", 5, 7, 3)])
    assert values(store, "a") == [3]


def test_of_equal_times_the_last_written_stays(store: RowStore) -> None:
    store.write([entry("a", 5, 5, 1)])
    store.write([entry("a", 5, 5, 2)])
    assert values(store, "a") == [2]


def test_the_newest_event_wins_within_one_batch_too(store: RowStore) -> None:
    store.write([entry("a", 5, 5, 1), entry("a", 7, 7, 2), entry("a", 6, 6, 3)])
    assert values(store, "a") == [2]


def test_events_before_1970_are_ordered_too(store: RowStore) -> None:
    store.write([entry("a", -5, -5, 1)])
    store.write([entry("a", -6, -6, 2)])
    assert values(store, "a") == [1]


def test_any_order_of_writes_by_several_writers_leaves_the_newest(store: RowStore) -> None:
    writes = [entry(f"k{n % 5}", 1_700_000_000_000_000 + n, 0, n) for n in range(100)]
    Random(0).shuffle(writes)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store.write, [writes[n : n + 5] for n in range(0, 100, 5)]))
    assert values(store, *(f"k{n}" for n in range(5))) == [95, 96, 97, 98, 99]


def test_the_rows_that_now_stand_are_counted(store: RowStore) -> None:
    store.write([entry("a", 5, 5, 1)])
    assert store.write([entry("a", 4, 4, 2), entry("b", 1, 1, 3)]) == 1


def test_values_of_every_type_survive(store: RowStore) -> None:
    row = [None, True, 2**60, 1.1, float("inf"), "é", [1, None], datetime(2024, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)]
    store.write([Entry(key("a"), 1, 1, pack(row))])
    (found,) = store.read([key("a")])
    assert found is not None
    assert unpack(found[2]) == row


def test_marks_are_remembered_a_layout(store: RowStore) -> None:
    assert store.mark(LAYOUT) is None
    mark = Mark(datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 7)
    store.set_mark(LAYOUT, Mark(mark.as_of - timedelta(days=1), 6))
    store.set_mark(LAYOUT, mark)
    assert (store.mark(LAYOUT), store.mark("other.1")) == (mark, None)


def test_the_newest_event_is_remembered_a_layout_and_never_goes_back(store: RowStore) -> None:
    assert store.newest(LAYOUT) is None
    for event in (1_700_000_000_123_456, 5):
        store.note_newest(LAYOUT, event)
    assert (store.newest(LAYOUT), store.newest("other.1")) == (1_700_000_000_123_456, None)


def test_an_event_before_1970_can_be_the_newest(store: RowStore) -> None:
    for event in (-7, -5, -6):
        store.note_newest(LAYOUT, event)
    assert store.newest(LAYOUT) == -5


def test_a_scan_gives_every_row_of_a_layout_and_no_other(store: RowStore) -> None:
    names = [f"k{n}" for n in range(1300)]
    store.write(entry(name, 1, 2, n) for n, name in enumerate(names))
    store.write([Entry(key("a", layout("view", ["key"], [("other", "Int64")])), 1, 1, pack([-1]))])
    assert sorted((*times, *unpack(row)) for *times, row in store.scan(LAYOUT)) == [(1, 2, n) for n in range(1300)]


def test_a_scan_of_a_layout_without_rows_is_empty(store: RowStore) -> None:
    assert list(store.scan(LAYOUT)) == []


def test_dropping_a_view_takes_its_rows_and_marks_and_no_others(store: RowStore) -> None:
    other = layout("view_2", ["key"], [("value", "Int64")])
    store.write([entry("a", 1, 1, 1), Entry(key("a", other), 1, 1, pack([2]))])
    for name in (LAYOUT, other):
        store.set_mark(name, Mark(instant(0), 1))
        store.note_newest(name, 7)
    store.drop("view")
    assert values(store, "a") == [None]
    assert store.read([key("a", other)]) != [None]
    assert (store.mark(LAYOUT), store.mark(other)) == (None, Mark(instant(0), 1))
    assert (store.newest(LAYOUT), store.newest(other)) == (None, 7)


def test_a_store_can_be_used_after_it_was_closed(store: RowStore) -> None:
    store.write([entry("a", 1, 1, 1)])
    store.close()
    assert values(store, "a") == [1]


def test_a_layout_changes_with_its_keys_names_types_and_order() -> None:
    layouts = {
        layout("view", ["a", "b"], [("x", "Int64"), ("y", "Int64")]),
        layout("view", ["a"], [("x", "Int64"), ("y", "Int64")]),
        layout("view", ["a", "b"], [("x", "Float64"), ("y", "Int64")]),
        layout("view", ["a", "b"], [("y", "Int64"), ("x", "Int64")]),
        layout("other", ["a", "b"], [("x", "Int64"), ("y", "Int64")]),
    }
    assert len(layouts) == 5
    assert layout("view", ["b", "a"], [("x", "Int64"), ("y", "Int64")]) in layouts


def test_keys_of_different_types_are_different() -> None:
    assert entity_key(b"v:", ["1"]) != entity_key(b"v:", [1])


def test_instants_keep_their_microseconds() -> None:
    at = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert (micros(at), instant(-1)) == (-1, at)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"this is no SQLite file, but long enough to be looked at" * 20)
    with pytest.raises(FeatureError, match=r"cannot be opened.*online\.db"):
        SqliteRows(tmp_path / "online.db").read([b"a"])


@pytest.mark.parametrize("act", ["read", "write", "mark"])
def test_a_file_that_is_damaged_later_is_named(tmp_path: Path, act: str) -> None:
    rows = SqliteRows(tmp_path / "online.db")
    rows.write(entry(f"k{n}", 1, 1, n) for n in range(1000))
    rows.close()
    for path in tmp_path.glob("online.db-*"):
        path.unlink()
    whole = (tmp_path / "online.db").read_bytes()
    (tmp_path / "online.db").write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: rows.read([key("k1")]),
        "write": lambda: rows.write([entry("a", 1, 1, 1)]),
        "mark": lambda: rows.mark(LAYOUT),
    }
    with pytest.raises(FeatureError, match=r"online store cannot be .*online\.db"):
        acts[act]()


def test_a_file_that_was_removed_is_no_longer_read(tmp_path: Path) -> None:
    rows = SqliteRows(tmp_path / "online.db")
    rows.write([entry("a", 1, 1, 1)])
    remove(tmp_path)
    assert (values(rows, "a"), rows.newest(LAYOUT), list(rows.scan(LAYOUT))) == ([None], None, [])


def test_reading_makes_no_file(tmp_path: Path) -> None:
    rows = SqliteRows(tmp_path / "online.db")
    assert (values(rows, "a"), rows.mark(LAYOUT), list(rows.scan(LAYOUT))) == ([None], None, [])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_took_the_place_of_another_is_read(tmp_path: Path) -> None:
    rows, other = SqliteRows(tmp_path / "online.db"), SqliteRows(tmp_path / "online.db")
    rows.write([entry("a", 5, 5, 1)])
    remove(tmp_path)
    other.write([entry("a", 4, 4, 2)])
    assert values(rows, "a") == [2]


def test_a_file_that_must_exist_and_does_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"cannot be read.*there is no such file.*online\.db"):
        SqliteRows(tmp_path / "online.db", must_exist=True).read([b"a"])


def test_a_locked_file_is_given_up(tmp_path: Path) -> None:
    rows = SqliteRows(tmp_path / "online.db", patience=0.01)
    rows.write([entry("a", 1, 1, 1)])
    rows.close()
    with locked(tmp_path / "online.db"), pytest.raises(FeatureError, match="database is locked"):
        rows.read([key("a")])
    assert values(rows, "a") == [1]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file held by somebody who lets nobody else read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        yield


def remove(folder: Path) -> None:
    for path in folder.glob("online.db*"):
        path.unlink()


def test_many_that_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    def write(number: int) -> int:
        return SqliteRows(tmp_path / f"{number // 4}.db").write([entry(f"k{number}", 1, 1, 1)])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(80))) == [1] * 80


def test_reading_any_number_of_rows_from_redis_is_one_command(needs_redis: Settings) -> None:
    rows = RedisRows(needs_redis.redis_url, needs_redis.redis_prefix)
    rows.write(entry(f"k{n}", 1, 1, n) for n in range(600))
    sent = commands_of(rows, lambda: rows.read([key(f"k{n}") for n in range(600)]))
    rows.close()
    assert sent == ["MGET"]


def commands_of(rows: RedisRows, act: Callable[[], object]) -> list[str]:
    """The commands that a store's client sends while `act` runs."""
    client = rows.client
    sent, execute = [], client.execute_command

    def watched(*arguments: Any, **options: Any) -> Any:
        sent.append(str(arguments[0]))
        return execute(*arguments, **options)

    client.execute_command = watched  # type: ignore[method-assign]  # this client is the test's own
    act()
    return sent


def test_a_redis_that_falls_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rows = RedisRows(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "x", patience=0.05)
        with pytest.raises(FeatureError, match="does not answer: TimeoutError"):
            rows.read([b"a"])
        silent.settimeout(0.2)
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):  # it was asked once
            silent.accept()


def test_a_redis_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(FeatureError, match=r"127\.0\.0\.1:1/0") as error:
        RedisRows("redis://user:secret@127.0.0.1:1/0", "x").read([b"a"])
    assert "secret" not in str(error.value)
