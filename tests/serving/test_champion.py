"""Hot swap: another champion takes over without a mixed or failed answer, and a bad one does not."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from millrace.db import Database
from millrace.errors import NoChampionError, RequestError
from millrace.prediction_log import PredictionLog, log_folder
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.app import create_app
from serving.online.champion import Holder
from serving.online.model import predict_once

from .conftest import CONTRACT, NOW, FakeReader, Promote, client_of, holder_of


@pytest.fixture
def holder(use_case: UseCase, settings: Settings, db: Database, reader: FakeReader) -> Iterator[Holder]:
    holder = holder_of(use_case, settings, db, reader)
    yield holder
    holder.close()


def test_nothing_serves_before_there_is_a_champion(holder: Holder) -> None:
    holder.refresh()
    assert holder.problem == ""
    with pytest.raises(NoChampionError, match="millrace train late"):
        holder.champion()


def test_the_champion_is_opened_and_followed(holder: Holder, promote: Promote) -> None:
    promote(1)
    holder.refresh()
    first = holder.champion()
    holder.refresh()
    assert holder.champion() is first
    promote(2, (2.0, 0.0))
    holder.refresh()
    assert holder.champion().version == 2


def test_a_rollback_is_followed(holder: Holder, promote: Promote, db: Database) -> None:
    promote(1)
    promote(2, (2.0, 0.0))
    holder.refresh()
    db.set_champion("late", 1, as_of=NOW, reason="It was better.", action="rolled back")
    holder.refresh()
    assert holder.champion().version == 1


@pytest.mark.parametrize("damage", ["flip", "missing", "unsigned"])
def test_a_damaged_champion_leaves_the_old_one_serving(
    holder: Holder, promote: Promote, settings: Settings, damage: str
) -> None:
    promote(1)
    holder.refresh()
    promote(2, (2.0, 0.0))
    model = settings.bundles / "late" / "2" / "model.onnx"
    if damage == "flip":
        content = bytearray(model.read_bytes())
        content[100] ^= 1
        model.write_bytes(content)
    elif damage == "missing":
        model.unlink()
    else:
        (model.parent / "more.txt").write_text("not signed")
    holder.refresh()
    assert holder.champion().version == 1
    assert "Version 2 cannot be served" in holder.problem


def test_a_champion_of_another_use_case_is_refused(holder: Holder, promote: Promote) -> None:
    promote(1)
    holder.refresh()
    promote(2, contract=replace(CONTRACT, use_case="other"))
    holder.refresh()
    assert (holder.champion().version, bool(holder.problem)) == (1, True)


def test_the_next_good_champion_clears_the_problem(holder: Holder, promote: Promote, settings: Settings) -> None:
    promote(1)
    (settings.bundles / "late" / "1" / "model.onnx").unlink()
    holder.refresh()
    assert holder.served is None
    assert holder.problem
    promote(2)
    holder.refresh()
    assert (holder.champion().version, holder.problem) == (2, "")


def test_a_database_that_is_down_leaves_the_champion_serving(
    holder: Holder, promote: Promote, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(1)
    holder.refresh()

    def down(_: str) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(db, "champion", down)
    holder.refresh()
    assert holder.champion().version == 1
    assert "database does not answer" in holder.problem
    monkeypatch.undo()
    holder.refresh()
    assert holder.problem == ""


def test_a_load_that_hangs_is_left_behind_and_never_served(
    use_case: UseCase, settings: Settings, db: Database, promote: Promote, reader: FakeReader
) -> None:
    hanging, release = threading.Event(), threading.Event()

    def reader_of(*_: object) -> FakeReader:
        if hanging.is_set():
            release.wait()
        return reader

    holder = Holder(
        use_case, settings.model_copy(update={"load_seconds": 0.05}), db, metrics=Metrics(), clock=lambda: NOW,
        log=PredictionLog(log_folder(settings, "late")), reader_of=reader_of,
    )  # fmt: skip
    holder.refresh()
    promote(1)
    while holder.served is None:  # a busy machine may take longer than the limit
        holder.refresh(again=True)
    hanging.set()
    promote(2)
    holder.refresh()
    assert (holder.champion().version, holder.problem) == (
        1,
        "Version 2 cannot be served. It took longer than 0.05 seconds.",
    )
    hanging.clear()
    promote(3)
    while holder.champion().version != 3:
        holder.refresh(again=True)
    release.set()
    while any(thread.name == "open late" for thread in threading.enumerate()):
        pass
    assert (holder.champion().version, holder.problem) == (3, "")
    holder.close()


def test_a_database_that_hangs_leaves_the_champion_serving(
    holder: Holder, promote: Promote, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(1)
    holder.refresh()
    answers, ask = threading.Event(), db.champion
    monkeypatch.setattr("serving.online.champion.ASK_SECONDS", 0.01)
    monkeypatch.setattr(db, "champion", lambda name: answers.wait() and ask(name))
    for _ in range(5):
        holder.refresh()
    assert holder.champion().version == 1
    assert "database does not answer" in holder.problem
    answers.set()
    while holder.problem:
        holder.refresh()


def test_the_champion_before_is_freed(holder: Holder, promote: Promote) -> None:
    promote(1)
    holder.refresh()
    first = weakref.ref(holder.champion().model.score)
    promote(2)
    holder.refresh()
    gc.collect()
    assert first() is None


def test_a_server_without_a_champion_is_not_ready_and_says_what_to_type(settings: Settings, use_case: UseCase) -> None:
    with client_of(create_app(settings, [use_case]), settings) as client:
        assert client.get("/health/ready").status_code == 503
        answer = client.post("/v1/late/predict", json={"rows": []})
        assert answer.status_code == 503
        assert answer.json()["error"]["todo"] == "Type: millrace train late"


def test_a_few_rows_are_predicted_in_process_as_the_server_would(
    db: Database, use_case: UseCase, settings: Settings, promote: Promote, reader: FakeReader
) -> None:
    promote(1)
    rows = [{"carrier": "UA", "distance": 100.0}]
    answer = predict_once(db, use_case, settings, rows, at=NOW, reader_of=lambda *_: reader)
    assert answer.predictions[0].features == {"delay": 0.5, "far": 0.1}
    assert reader.reads == [(1, NOW)]
    with pytest.raises(RequestError, match="column"):
        predict_once(db, use_case, settings, [{"colour": 1}], at=NOW, reader_of=lambda *_: reader)
