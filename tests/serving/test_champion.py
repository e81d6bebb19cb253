"""Hot swap: another champion takes over without a mixed or failed answer, and a bad one does not."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from millrace.db import Database
from millrace.errors import NoChampionError, RequestError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.guard import Guard
from serving.online.champion import Holder
from serving.online.model import predict_once

from .conftest import CONTRACT, NOW, FakeReader, Promote, client_of, holder_of

ROW = {"delay": 1.0, "far": 0.0}


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


def test_a_server_without_a_champion_is_not_ready_and_says_what_to_type(settings: Settings, use_case: UseCase) -> None:
    with client_of(create_app(settings, [use_case]), settings) as client:
        assert client.get("/health/ready").status_code == 503
        answer = client.post("/v1/late/predict", json={"rows": []})
        assert answer.status_code == 503
        assert answer.json()["error"]["todo"] == "Type: millrace train late"


def test_swaps_under_load_fail_and_mix_nothing(app: Guard, settings: Settings, promote: Promote) -> None:
    answers: list[tuple[int, float]] = []
    done = threading.Event()

    def ask(client: httpx.Client) -> None:
        while not done.is_set():
            answer = client.post("/v1/late/predict", json={"rows": [ROW] * 3})
            assert answer.status_code == 200, answer.text
            body = answer.json()
            answers.extend((body["version"], row["score"]) for row in body["predictions"])

    with client_of(app, settings) as client:
        workers = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for version in range(2, 7):
            promote(version, (float(version), 0.0))
            _wait_for(client, version)
        done.set()
        for worker in workers:
            worker.join()
    assert {version for version, _ in answers} >= {2, 3, 4, 5}
    for version, score in answers:
        assert score == pytest.approx(1 / (1 + math.exp(-version)), abs=1e-6)


def _wait_for(client: httpx.Client, version: int) -> None:
    while client.get("/health/ready").json()["models"]["late"]["version"] != version:
        pass


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
