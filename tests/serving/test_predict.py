"""Predictions over HTTP: right numbers, logged before they are answered, refused in one shape."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.views import Stale
from millrace.lake import Lake
from millrace.prediction_log import TABLE, log_folder, ship
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.guard import Guard
from serving.online.batcher import Batcher, Overload

from .conftest import NOW, FakeReader, Promote, client_of

PATH = "/v1/late/predict"


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def predictions(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


def test_a_row_by_keys_is_scored(client: httpx.Client) -> None:
    answer = client.post(PATH, json={"rows": [{"carrier": "UA", "distance": 200}]})
    assert {name: answer.json()[name] for name in ("use_case", "version")} == {"use_case": "late", "version": 1}
    (row,) = predictions(answer)
    assert row["score"] == pytest.approx(sigmoid(0.5 - 0.2), abs=1e-6)
    assert row["flags"] == []
    assert len(row["id"]) == 32
    assert "features" not in row


def test_the_values_used_are_answered_when_asked_for(client: httpx.Client) -> None:
    answer = client.post(PATH, json={"rows": [{"carrier": "DL", "distance": 100}], "features": True})
    assert predictions(answer)[0]["features"] == {"delay": -0.25, "far": 0.1}


def test_an_unknown_entity_is_flagged_and_scored(client: httpx.Client) -> None:
    (row,) = predictions(client.post(PATH, json={"rows": [{"carrier": "ZZ", "distance": 0}], "features": True}))
    assert row["flags"] == ["missing:carrier_view"]
    assert row["features"]["delay"] is None


@pytest.mark.parametrize(("policy", "carrier", "delay"), [("flag", "ZZ", None), ("serve", "UA", 0.5)])
def test_expired_values_are_flagged_as_stale(
    client: httpx.Client, reader: FakeReader, policy: Stale, carrier: str, delay: float | None
) -> None:
    reader.expired = {carrier: policy}
    body = {"rows": [{"carrier": carrier, "distance": 0}], "features": True}
    (row,) = predictions(client.post(PATH, json=body))
    assert (row["flags"], row["features"]["delay"]) == (["stale:carrier_view"], delay)
    assert 'millrace_stale_rows_total{use_case="late",view="carrier_view"} 1.0' in client.get("/metrics").text


def test_a_view_that_refuses_expired_values_is_named_and_nothing_is_logged(
    app: Guard, settings: Settings, reader: FakeReader, tmp_path: Path
) -> None:
    reader.expired = {"ZZ": "refuse"}
    rows = [{"carrier": "UA", "distance": 0}, {"carrier": "ZZ", "distance": 0}]
    with client_of(app, settings) as client:
        answer = client.post(PATH, json={"rows": rows})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "carrier_view has only expired values" in answer.json()["error"]["what"]
    assert answer.json()["error"]["field"] == "rows[1]"
    assert ship(log_folder(settings, "late"), Lake(str(tmp_path / "lake"))) == 0


def test_rows_that_give_all_features_read_no_store(client: httpx.Client, reader: FakeReader) -> None:
    answer = client.post(PATH, json={"rows": [{"delay": 1, "far": 0.5}, {"delay": 0, "far": 0}]})
    assert [row["score"] for row in predictions(answer)] == pytest.approx([sigmoid(0.5), 0.5], abs=1e-6)
    assert reader.reads == []


def test_given_and_read_rows_keep_their_order(client: httpx.Client) -> None:
    rows = [{"carrier": "UA", "distance": 0}, {"delay": 0.1, "far": 0}, {"carrier": "DL", "distance": 0}]
    scores = [row["score"] for row in predictions(client.post(PATH, json={"rows": rows}))]
    assert scores == pytest.approx([sigmoid(0.5), sigmoid(0.1), sigmoid(-0.25)], abs=1e-6)


def test_features_are_read_as_of_the_given_instant_or_now(client: httpx.Client, reader: FakeReader) -> None:
    row = {"carrier": "UA", "distance": 0}
    client.post(PATH, json={"rows": [row]})
    client.post(PATH, json={"rows": [row], "at": "2013-03-01T01:00:00+01:00"})
    assert reader.reads == [(1, NOW), (1, datetime(2013, 3, 1, tzinfo=UTC))]


def test_no_rows_are_an_empty_answer(client: httpx.Client) -> None:
    assert predictions(client.post(PATH, json={"rows": []})) == []


def test_concurrent_requests_each_get_their_own_rows(client: httpx.Client) -> None:
    def ask(number: int) -> float:
        far = number / 100
        return float(predictions(client.post(PATH, json={"rows": [{"delay": 0, "far": far}]}))[0]["score"])

    with ThreadPoolExecutor(16) as pool:
        scores = list(pool.map(ask, range(200)))
    assert scores == pytest.approx([sigmoid(-number / 100) for number in range(200)], abs=1e-6)


def test_an_answered_prediction_is_in_the_log_before_its_answer(
    client: httpx.Client, settings: Settings, tmp_path: Path
) -> None:
    rows = [{"carrier": "UA", "distance": 200, "trip": 7}, {"delay": 1, "far": 0}]
    answered = predictions(client.post(PATH, json={"rows": rows, "at": "2013-03-01T00:00:00Z"}))
    (segment,) = log_folder(settings, "late").glob("*.log")
    copy = tmp_path / "copy" / segment.name  # the server holds the segment itself
    copy.parent.mkdir()
    copy.write_bytes(segment.read_bytes())
    lake = Lake(str(tmp_path / "lake"))
    assert ship(copy.parent, lake) == 2
    logged = lake.scan(TABLE).collect().rows(named=True)
    assert [row["prediction_id"] for row in logged] == [row["id"] for row in answered]
    assert [row["score"] for row in logged] == [row["score"] for row in answered]
    assert [row["row_key"] for row in logged] == ["UA|7", ""]
    assert [row["event_time"] for row in logged] == [datetime(2013, 3, 1, tzinfo=UTC)] * 2
    assert [row["known_at"] for row in logged] == [NOW, NOW]
    assert [(row["delay"], row["far"]) for row in logged] == [(0.5, 0.2), (1.0, 0.0)]


def test_the_log_is_finished_when_the_server_ends(app: Guard, settings: Settings, tmp_path: Path) -> None:
    with client_of(app, settings) as client:
        predictions(client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]}))
    assert ship(log_folder(settings, "late"), Lake(str(tmp_path / "lake"))) == 1


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prediction log's disk takes no more; the sizes of what was tried to be written."""
    tried: list[int] = []

    def write(_file: int, data: bytes) -> int:
        tried.append(len(data))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("millrace.prediction_log.os.write", write)
    return tried


def test_what_cannot_be_logged_is_not_answered_and_no_5xx(client: httpx.Client, full_disk: list[int]) -> None:
    answers = [client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]}) for _ in range(20)]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(429, "5")}
    assert 'millrace_shed_total{reason="log",use_case="late"} 20.0' in client.get("/metrics").text


def test_a_full_disk_is_asked_again_once_a_second(client: httpx.Client, full_disk: list[int]) -> None:
    started = time.monotonic()
    for _ in range(20):
        client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]})
    assert len(full_disk) <= 1 + (time.monotonic() - started)


def test_when_the_disk_has_room_again_predictions_go_on(
    client: httpx.Client, app: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("millrace.prediction_log.os.write", lambda _file, data: len(data) // 2)
        assert client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]}).status_code == 429
    later = time.monotonic() + 2
    monkeypatch.setattr("millrace.prediction_log.time.monotonic", lambda: later)
    assert client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]}).status_code == 200


def test_an_operator_may_have_predictions_answered_that_are_not_logged(
    settings: Settings, use_case: UseCase, reader: FakeReader, promote: Promote, full_disk: list[int]
) -> None:
    promote()
    serving = settings.model_copy(update={"log_full": "serve"})
    app = create_app(serving, [use_case], clock=lambda: NOW, reader_of=lambda *_: reader)
    with client_of(app, serving) as client:
        (row,) = predictions(client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]}))
        assert row["flags"] == ["unlogged"]
        assert 'millrace_unlogged_predictions_total{use_case="late"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("reason", ["queue", "deadline"])
def test_too_much_is_503_with_when_to_come_back_and_counted(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def refuse(*_: object) -> None:
        raise Overload(reason, "Too much.")

    monkeypatch.setattr(Batcher, "submit", refuse)
    answer = client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert f'millrace_shed_total{{reason="{reason}",use_case="late"}} 1.0' in client.get("/metrics").text


def test_a_store_that_is_down_is_503_and_rows_with_features_go_on(client: httpx.Client, reader: FakeReader) -> None:
    reader.broken = True
    answer = client.post(PATH, json={"rows": [{"carrier": "UA", "distance": 0}]})
    assert answer.status_code == 503
    assert "online store" in answer.json()["error"]["what"]
    assert len(predictions(client.post(PATH, json={"rows": [{"delay": 1, "far": 0}]}))) == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"rows": [{"delay": NaN, "far": 0}]}', 400, "body"),
        (b'{"rows": [{"delay": 1e400, "far": 0}]}', 422, "rows[0].delay"),
        (b'{"rows": [{"delay": 1, "delay": 1, "far": 0}]}', 422, "delay"),
        (b'{"rows": [{"delay": "\\ud800", "far": 0}]}', 400, "body"),
        (b'{"rows": [{"carrier": "\\ud800 and more", "far": 0}]}', 400, "body"),
        (b'{"rows": [{"delay": 1}]}', 422, "rows[0].distance"),
        (b'{"rows": [{"far": 1}]}', 422, "rows[0].carrier"),
        (b'{"rows": [{"delay": 1, "far": 0, "late": 1}]}', 422, "rows[0].late"),
        (b'{"rows": [' + b",".join([b'{"delay":1,"far":0}'] * 1_001) + b"]}", 413, "rows"),
        (b"[" * 100_000, 422, "body"),
        (b'{"rows": "' + b"x" * 4_000_000 + b'"}', 413, "body"),
    ],
)
def test_bad_input_is_refused_in_the_one_shape(client: httpx.Client, body: bytes, status: int, field: str) -> None:
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    shape = answer.json()
    assert set(shape) == {"error", "request_id"}
    assert set(shape["error"]) == {"status", "what", "field", "todo"}
    assert (shape["error"]["status"], shape["error"]["field"]) == (status, field)
    assert shape["request_id"] == answer.headers["x-request-id"]


def test_a_body_without_a_length_is_bounded_too(client: httpx.Client) -> None:
    chunks = (b"x" * 100_000 for _ in range(50))
    answer = client.post(PATH, content=chunks, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("headers", "field"),
    [({"Content-Type": "text/plain"}, "Content-Type"), ({"Content-Encoding": "gzip"}, "Content-Encoding")],
)
def test_another_type_or_compression_is_415(client: httpx.Client, headers: dict[str, str], field: str) -> None:
    sent = {"Content-Type": "application/json", **headers}
    answer = client.post(PATH, content=b"{}", headers=sent)
    assert answer.status_code == 415
    assert answer.json()["error"]["field"] == field


def test_another_method_is_405(client: httpx.Client) -> None:
    answer = client.get(PATH)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


def test_another_use_case_is_404(client: httpx.Client) -> None:
    for name in ("early", "../../etc", "%2e%2e", "late%2f"):
        answer = client.post(f"/v1/{name}/predict", content=b"{}")
        assert answer.status_code == 404
        assert answer.json()["error"]["status"] == 404


def test_a_bad_request_among_many_changes_nobody_elses_answer(client: httpx.Client) -> None:
    def ask(number: int) -> tuple[int, Any]:
        value: Any = "bad" if number % 3 == 0 else number / 100
        answer = client.post(PATH, content=json.dumps({"rows": [{"delay": 0, "far": value}]}))
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(150)))
    assert [status for status, _ in answers] == [422 if number % 3 == 0 else 200 for number in range(150)]
    good = {number: body["predictions"][0]["score"] for number, (status, body) in enumerate(answers) if status == 200}
    assert list(good.values()) == pytest.approx([sigmoid(-number / 100) for number in good], abs=1e-6)
