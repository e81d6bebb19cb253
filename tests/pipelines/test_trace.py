"""Where a feature value comes from: value, row, build and batches, against the use case's own numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from features.push import push
from features.training_set import historical_features
from millrace.cli import main
from millrace.errors import FeatureError
from millrace.lake.care import compact, vacuum
from pipelines import data
from pipelines.trace import trace_feature
from pipelines.workspace import Workspace, open_workspace

CASES = Path(__file__).parent / "cases"
FIRST, SECOND, THIRD = (datetime(2024, 1, day, tzinfo=UTC) for day in (6, 13, 20))
AT = datetime(2024, 1, 7, tzinfo=UTC)
"""A day after the first ingest: what a value of then is made of came with the first two."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A platform that has ingested three times."""
    home = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        patch.setenv("MILLRACE_HOME", str(home))
        with open_workspace("taxi") as ws:
            for as_of in (FIRST, SECOND, THIRD):
                data.ingest(ws, as_of=as_of)
            data.materialize(ws, as_of=THIRD)
        yield home


@pytest.fixture
def ws(home: Path) -> Iterator[Workspace]:
    with open_workspace("taxi") as workspace:
        yield workspace


def trace(ws: Workspace, *, at: datetime = AT, feature: str = "zone_late") -> dict[str, Any]:
    return trace_feature(ws, f"recent:{feature}", {"zone": "Z1"}, as_of=at)


def contributing(ws: Workspace, event: datetime) -> pl.DataFrame:
    """The trips that can have gone into Z1's row of a moment: known by then, at most the lookback before it."""
    trips = ws.lake.scan("raw/done").filter(pl.col("zone") == "Z1", pl.col("known_at") <= event)
    return trips.filter(pl.col("known_at") >= event - timedelta(days=2)).collect()


def test_the_value_is_the_one_that_training_sees(ws: Workspace) -> None:
    row = pl.DataFrame([{"zone": "Z1", "hour": 5, "event_time": AT}])
    offline = historical_features(ws.use_case, ws.settings, row)
    assert trace(ws)["offline"] == offline["zone_late"][0]


def test_the_row_is_told_with_its_times_and_its_build(ws: Workspace) -> None:
    found = trace(ws)
    row = ws.lake.scan("features/recent").filter(zone="Z1").filter(pl.col("event_time") <= AT)
    assert found["event_time"] == found["known_at"] == row.select(pl.col("event_time").max()).collect().item()
    assert (found["table"], found["came_by"]) == ("features/recent", "build")
    assert (found["version"], found["version_is"], found["built_as_of"]) == (1, "exact", SECOND)
    assert [(line["table"], line["version"]) for line in found["reads"]] == [("raw/done", 1)]


def test_the_batches_are_those_that_brought_its_raw_rows(ws: Workspace) -> None:
    found = trace(ws)
    trips = contributing(ws, found["event_time"])
    first = trips.filter(pl.col("known_at") <= FIRST).height
    told = [(line["version"], line["rows"], line["found"]) for line in found["batches"]]
    assert told == [(0, first, "exactly"), (1, trips.height - first, "exactly")]
    ends = [line["batch"].split(":")[1].split("-")[1] for line in found["batches"]]
    assert ends == [f"{day:%Y%m%dT%H%M%S}" for day in (FIRST, SECOND)]
    assert found["reads"][0]["rows"] == trips.height


def test_the_online_value_of_now_stands_beside_it(ws: Workspace) -> None:
    newest = ws.lake.scan("features/recent").filter(zone="Z1").sort("event_time").last().collect()
    now = trace(ws, at=THIRD)
    assert now["online"] == now["offline"] == newest["zone_late"][0]
    assert (now["online_state"], trace(ws)["online_state"]) == (
        "answers then",
        "does not answer then: later, or expired",
    )


def test_a_value_past_its_ttl_is_missing_and_its_row_is_still_traced(ws: Workspace) -> None:
    found = trace(ws, at=THIRD + timedelta(days=3))
    assert (found["state"], found["offline"]) == ("expired", None)
    assert found["row_value"] is not None
    assert found["batches"]


def test_a_moment_before_anything_was_known_has_no_row(ws: Workspace) -> None:
    found = trace(ws, at=datetime(2023, 1, 1, tzinfo=UTC))
    assert (found["state"], found["offline"]) == ("never known by then", None)


def test_a_pushed_value_is_traced_to_its_push(ws: Workspace) -> None:
    row = {"zone": "Z3", "event_time": THIRD + timedelta(minutes=1), "zone_late": 0.5, "zone_trips": 2.0}
    sent = [row | {"event_time": row["event_time"].isoformat()}]
    push(ws.use_case, ws.settings, "recent", sent, now=THIRD + timedelta(minutes=2))
    found = trace_feature(ws, "recent:zone_late", {"zone": "Z3"}, as_of=THIRD + timedelta(hours=1))
    assert (found["offline"], found["came_by"]) == (0.5, "push")
    assert found["batches"][0]["batch"].startswith("push:recent:")


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("recent:nothing", {"zone": "Z1"}, "no feature 'recent:nothing'.*recent:zone_late"),
        ("nothing:zone_late", {"zone": "Z1"}, "no feature"),
        ("recent", {"zone": "Z1"}, "no feature"),
        ("recent:zone_late", {}, "not named by no key.*--key zone="),
        ("recent:zone_late", {"zone": "Z1", "hour": "1"}, "not named by zone, hour"),
    ],
)
def test_what_there_is_not_is_named(ws: Workspace, name: str, key: dict[str, str], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        trace_feature(ws, name, key, as_of=AT)


def test_the_command_prints_the_same_as_json(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["taxi", "recent:zone_late", "--key", "zone=Z1", "--as-of", AT.isoformat(), "--json"]
    with pytest.raises(SystemExit) as end:
        main(["trace", "feature", *arguments])
    shown = json.loads(capsys.readouterr().out)
    assert end.value.code in (0, None)
    assert shown["offline"] == trace(ws)["offline"]


def test_a_key_that_is_no_pair_is_refused(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["trace", "feature", "taxi", "recent:zone_late", "--key", "Z1"])
    assert end.value.code == 2
    assert "COLUMN=VALUE" in capsys.readouterr().err


def test_after_a_vacuum_the_batches_are_told_by_their_range(ws: Workspace) -> None:
    before = trace(ws)
    for table in ("raw/done", "features/recent"):
        compact(ws.lake, table)
        vacuum(ws.lake, table, older_than=timedelta(0))
    after = trace(ws)
    assert after["offline"] == before["offline"]
    assert after["version_is"] == "or earlier"
    assert [line["found"] for line in after["batches"]] == ["by its range"] * 2
    assert [line["rows"] for line in after["batches"]] == [line["rows"] for line in before["batches"]]
