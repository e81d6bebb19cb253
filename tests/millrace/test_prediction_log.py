"""The prediction log: what is acknowledged arrives in the lake, once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.lake import Lake
from millrace.prediction_log import (
    COLUMNS,
    PREDICTED,
    TABLE,
    Kind,
    Prediction,
    PredictionLog,
    log_batch,
    microseconds,
    row_key,
    row_keys,
    ship,
)

FEATURES: dict[str, Kind] = {"delay": "number", "carrier": "text", "weekend": "number"}
AT = datetime(2013, 4, 1, 6, 30, 0, 250, tzinfo=UTC)


def predictions(*names: str) -> list[Prediction]:
    at = microseconds(AT)
    return [Prediction(name, 3, at + 5, at, "UA|1", "missing:plane", 0.25, [1.5, "UA", True]) for name in names]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def shipped(lake: Lake) -> pl.DataFrame:
    return lake.scan(TABLE).collect().sort("prediction_id")


def test_a_closed_segment_arrives_with_every_column(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a"))
    log.close()
    assert ship(folder, lake) == 1
    row = shipped(lake).row(0, named=True)
    assert row == {
        "prediction_id": "a",
        "version": 3,
        "served_at": AT + timedelta(microseconds=5),
        "event_time": AT,
        "known_at": AT + timedelta(microseconds=5),
        "channel": "online",
        "row_key": "UA|1",
        "flags": "missing:plane",
        "score": 0.25,
        "delay": 1.5,
        "carrier": "UA",
        "weekend": 1.0,
    }
    assert list(folder.iterdir()) == []


def test_an_open_segment_stays_until_its_writer_finishes_it(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a"))
    assert ship(folder, lake) == 0
    log.rotate()
    log.append(FEATURES, predictions("b"))
    assert ship(folder, lake) == 1
    log.close()
    assert ship(folder, lake) == 1
    assert shipped(lake)["prediction_id"].to_list() == ["a", "b"]


def test_a_full_segment_is_followed_by_another(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder, max_bytes=1)
    log.append(FEATURES, predictions("a"))
    log.append(FEATURES, predictions("b", "c"))
    assert len(list(folder.glob("*.log"))) == 2
    assert ship(folder, lake) == 3


def test_a_segment_that_was_shipped_before_its_removal_is_not_doubled(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a", "b"))
    log.close()
    (segment,) = folder.glob("*.log")
    kept = segment.read_bytes()
    assert ship(folder, lake) == 2
    segment.write_bytes(kept)  # as if the process had died between the commit and the removal
    assert ship(folder, lake) == 0
    assert shipped(lake).height == 2
    assert not segment.exists()


def test_a_torn_tail_is_dropped_and_the_rest_arrives(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a"))
    log.append(FEATURES, predictions("b"))
    log.close()
    (segment,) = folder.glob("*.log")
    os.truncate(segment, segment.stat().st_size - 3)
    assert ship(folder, lake) == 1
    assert shipped(lake)["prediction_id"].to_list() == ["a"]


def test_a_flipped_bit_costs_its_record_alone_and_the_segment_is_kept(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    for name in ("a", "b", "c"):
        log.append(FEATURES, predictions(name))
    log.close()
    (segment,) = folder.glob("*.log")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    assert ship(folder, lake) == 2
    assert shipped(lake)["prediction_id"].to_list() == ["a", "c"]
    assert [path.suffix for path in folder.iterdir()] == [".damaged"]


def test_a_failed_write_leaves_no_half_record(folder: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a"))
    write = os.write

    def full_disk(file: int, data: bytes) -> int:
        write(file, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        log.append(FEATURES, predictions("lost"))
    monkeypatch.setattr(os, "write", write)
    log.append(FEATURES, predictions("b"))
    log.close()
    assert ship(folder, lake) == 2
    assert shipped(lake)["prediction_id"].to_list() == ["a", "b"]


def test_what_a_killed_process_acknowledged_arrives(folder: Path, lake: Lake) -> None:
    code = f"""
        from pathlib import Path
        from millrace.prediction_log import Prediction, PredictionLog
        log = PredictionLog(Path({str(folder)!r}))
        for number in range(1_000_000):
            log.append({{"delay": "number"}}, [Prediction(f"{{number:07d}}", 1, number, number, "", "", 0.5, [1.0])])
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 500:
            pass
        process.send_signal(signal.SIGKILL)
        acknowledged = [500, *(int(line) for line in process.stdout if line.endswith("\n"))][-1]
    ship(folder, lake)
    ids = shipped(lake)["prediction_id"].cast(pl.Int64)
    assert ids.is_unique().all()
    assert set(range(acknowledged + 1)) <= set(ids)


def test_rows_of_two_versions_meet_in_one_table(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append({"delay": "number"}, [Prediction("a", 1, 0, 0, "", "", 0.5, [2])])
    log.append({"delay": "number", "rain": "text"}, [Prediction("b", 2, 0, 0, "", "", 0.5, [None, "yes"])])
    log.close()
    assert ship(folder, lake) == 2
    assert shipped(lake).select("delay", "rain").rows() == [(2.0, None), (None, "yes")]


def test_batch_scores_are_logged_once_beside_online_ones(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a"))
    log.close()
    ship(folder, lake)
    frame = pl.DataFrame(
        {
            "version": [4, 4],
            "served_at": [AT, AT],
            "event_time": [AT, AT],
            "score": [0.1, 0.9],
            "delay": [7, None],
            "carrier": pl.Series(["UA", "DL"], dtype=pl.Categorical),
            "weekend": [True, False],
        }
    )
    assert log_batch(lake, frame, batch="score-1") == 2
    assert log_batch(lake, frame, batch="score-1") == 0
    rows = shipped(lake)
    assert rows["prediction_id"].to_list() == ["a", "score-1:0", "score-1:1"]
    assert rows["channel"].to_list() == ["online", "batch", "batch"]
    assert rows.select("delay", "carrier", "weekend").rows()[1:] == [(7.0, "UA", 1.0), (None, "DL", 0.0)]
    assert set(COLUMNS) < set(rows.columns)


def test_an_empty_folder_ships_nothing(folder: Path, lake: Lake) -> None:
    assert ship(folder, lake) == 0


@given(
    st.lists(
        st.tuples(
            st.text(max_size=5),
            st.integers(-(2**62), 2**62),
            st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # bounds are naive
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_row_has_the_same_key_online_and_in_a_frame(rows: list[tuple[str, int, datetime]]) -> None:
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.Int64, "t": pl.Datetime("us", "UTC")}, orient="row")
    expected = frame.select(row_keys(("a", "b", "t"), frame.schema))["row_key"].to_list()
    assert [row_key(row) for row in rows] == expected


def test_an_online_key_time_given_in_another_zone_is_the_same_key() -> None:
    elsewhere = AT.replace(microsecond=0).astimezone(timezone(timedelta(hours=-5)))
    assert row_key(["UA", elsewhere.isoformat()]) == "UA|2013-04-01T06:30:00Z"


WITH_ARRAY: dict[str, Kind] = {"image": "numbers", "carrier": "text"}


def of_classes(*names: str, image: object = (0.5, None, 2)) -> list[Prediction]:
    at = microseconds(AT)
    return [Prediction(name, 3, at, at, "", "", 0.75, [image, "UA"]) for name in names]


def test_predicted_classes_and_arrays_arrive(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(WITH_ARRAY, of_classes("a"), ["pear"])
    log.append(WITH_ARRAY, of_classes("b", image=None), ["apple"])
    log.close()
    assert ship(folder, lake) == 2
    found = shipped(lake)
    assert found[PREDICTED].to_list() == ["pear", "apple"]
    assert found["image"].to_list() == [[0.5, None, 2.0], None]
    assert found.schema["image"] == pl.List(pl.Float32)


def test_a_model_of_two_outcomes_leaves_the_log_as_it_was(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(FEATURES, predictions("a"))
    log.close()
    ship(folder, lake)
    assert PREDICTED not in shipped(lake).columns


def test_models_with_and_without_classes_share_a_segment_and_an_older_table(folder: Path, lake: Lake) -> None:
    for rows in (["a"], ["b", "c"]):
        log = PredictionLog(folder)
        log.append(FEATURES, predictions(rows[0]))
        if len(rows) > 1:
            log.append(WITH_ARRAY, of_classes(rows[1]), ["pear"])
        log.close()
        ship(folder, lake)
    found = shipped(lake)
    assert found[PREDICTED].to_list() == [None, None, "pear"]
    assert found["delay"].to_list() == [1.5, 1.5, None]


def test_a_batch_logs_classes_and_arrays_as_the_server_does(folder: Path, lake: Lake) -> None:
    log = PredictionLog(folder)
    log.append(WITH_ARRAY, of_classes("a"), ["pear"])
    log.close()
    ship(folder, lake)
    image = pl.Series("image", [[1.0, 2.0, 3.0]], dtype=pl.Array(pl.Float64, 3))
    frame = pl.DataFrame({"version": [3], "served_at": [AT], "event_time": [AT], "score": [0.5], PREDICTED: ["apple"]})
    frame = frame.with_columns(image, score_apple=pl.lit(0.5))
    assert log_batch(lake, frame, batch="score:1", features=["image", PREDICTED]) == 1
    found = shipped(lake)
    assert found[PREDICTED].to_list() == ["pear", "apple"]
    assert found["image"].to_list()[1] == [1.0, 2.0, 3.0]
    assert "score_apple" not in found.columns
