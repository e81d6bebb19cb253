"""Pushing over HTTP: kept and online when it is answered, once, and refused in the one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest

import serving.push
from features.catalog import ViewEntry
from features.online import open_reader
from features.push import Pushed
from features.store import repo_folder
from millrace.errors import FeatureError
from millrace.lake import Lake, open_lake
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.push import decode_rows

from .conftest import NAME, NOW, PLAN, Promote, client_of

PATH = "/v1/late/features/carrier_view"
(VIEW,) = PLAN.views
ENTRY = ViewEntry(
    name=VIEW.name,
    table="features/carrier_recent",
    path="",
    layout=VIEW.layout,
    join_keys=VIEW.join_keys,
    key_types=VIEW.key_types,
    features=(("delay", "Float64"),),
    ttl=VIEW.ttl,
    stale="flag",
    event="event_time",
    created="known_at",
)
ROW = {"carrier": "UA", "event_time": (NOW - timedelta(hours=1)).isoformat(), "delay": 0.75}


@pytest.fixture
def client(settings: Settings, use_case: UseCase, promote: Promote) -> Iterator[httpx.Client]:
    """A client of a server with one view, which reads the real online store; the clock stands still at `NOW`."""
    promote()
    (repo_folder(use_case, settings) / "catalog.json").write_bytes(msgspec.json.encode([ENTRY]))
    app = create_app(settings, [use_case], clock=lambda: NOW, reader_of=open_reader)
    with client_of(app, settings) as client:
        yield client


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return open_lake(settings, NAME)


def rows(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"rows": [ROW | change for change in changes]}


def predicted(client: httpx.Client, carrier: str = "UA") -> Any:
    body = {"rows": [{"carrier": carrier, "distance": 100}], "features": True}
    return client.post("/v1/late/predict", json=body).json()["predictions"][0]["features"]["delay"]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and field, after a look that it is the one shape."""
    error = answer.json()["error"]
    assert set(error) == {"status", "what", "field", "todo"}
    assert error["status"] == answer.status_code
    return answer.status_code, error["field"]


def test_a_pushed_row_is_what_the_next_prediction_sees(client: httpx.Client, lake: Lake) -> None:
    assert predicted(client) is None
    answer = client.post(PATH, json=rows({}))
    assert answer.status_code == 200
    assert answer.json() == {"view": "carrier_view", "rows": 1, "written": 1, "online": 1, "repeated": False}
    assert predicted(client) == 0.75
    assert lake.scan("pushed/carrier_view").collect()["known_at"].to_list() == [NOW]


def test_the_same_rows_again_are_answered_as_repeated(client: httpx.Client, lake: Lake) -> None:
    client.post(PATH, json=rows({}, {"carrier": "DL"}))
    again = client.post(PATH, json=rows({"carrier": "DL"}, {}))
    assert again.json() == {"view": "carrier_view", "rows": 2, "written": 0, "online": 2, "repeated": True}
    assert lake.scan("pushed/carrier_view").collect().height == 2


def test_many_clients_at_once_all_get_their_rows_in(client: httpx.Client, lake: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.post(PATH, json=rows({"carrier": f"C{n % 6}"})), range(12)))
    assert sorted(answer.json()["written"] for answer in answers) == [0] * 6 + [1] * 6
    assert lake.scan("pushed/carrier_view").select(pl.col("carrier").n_unique()).collect().item() == 6


def test_a_push_needs_the_key(client: httpx.Client) -> None:
    assert httpx.post(f"{client.base_url}{PATH}", json=rows({})).status_code == 401


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/early/features/carrier_view", "use_case"), ("/v1/late/features/nothing", "view")]
)
def test_an_unknown_use_case_or_view_is_404(client: httpx.Client, path: str, field: str) -> None:
    assert error_of(client.post(path, json=rows({}))) == (404, field)


def test_another_method_is_405(client: httpx.Client) -> None:
    assert error_of(client.get(PATH))[0] == 405


WRONG: list[tuple[bytes, int, str]] = [
    (b"", 400, "body"),
    (b"{", 400, "body"),
    (b"\xff", 400, "body"),
    (b"[" * 100_000, 400, "body"),
    (b'{"rows": [{"delay": NaN}]}', 400, "body"),
    (b'{"rows": [{"delay": -Infinity}]}', 400, "body"),
    (b"[]", 422, "body"),
    (b"{}", 422, "body"),
    (b'{"rows": {}}', 422, "body"),
    (b'{"rows": [], "at": null}', 422, "body"),
    (b'{"rows": []}', 422, "rows"),
    (b'{"rows": [1]}', 422, "rows[0]"),
    (b'{"rows": [], "rows": []}', 422, "rows"),
    (b'{"rows": [{"delay": 1, "delay": 2}]}', 422, "delay"),
    (b'{"rows": [{"<b>": 1, "<b>": 2}]}', 422, "rows"),
]


@pytest.mark.parametrize(("body", "status", "field"), WRONG)
def test_what_is_not_rows_is_refused(client: httpx.Client, lake: Lake, body: bytes, status: int, field: str) -> None:
    assert error_of(client.post(PATH, content=body)) == (status, field)
    assert lake.tables() == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"carrier": None}, "rows[1].carrier"),
        ({"carrier": 7}, "rows[1].carrier"),
        ({"delay": "long"}, "rows[1].delay"),
        ({"speed": 1}, "rows[1].speed"),
        ({"event_time": "2013-04-01T11:00:00"}, "rows[1].event_time"),
        ({"event_time": (NOW + timedelta(minutes=6)).isoformat()}, "rows[1].event_time"),
        ({}, "rows[1].event_time"),
    ],
)
def test_a_row_that_does_not_fit_is_422_by_its_field_and_nothing_is_written(
    client: httpx.Client, lake: Lake, change: dict[str, Any], field: str
) -> None:
    assert error_of(client.post(PATH, json=rows({}, change))) == (422, field)
    assert lake.tables() == []
    assert predicted(client) is None


@pytest.mark.parametrize("number", ["1e400", "1" * 400, "9" * 5_000])
def test_a_number_without_end_is_refused(client: httpx.Client, number: str) -> None:
    body = json.dumps(rows({})).replace("0.75", number)
    assert client.post(PATH, content=body).status_code in (400, 422)


def test_half_a_surrogate_pair_is_422(client: httpx.Client) -> None:
    body = json.dumps(rows({})).replace('"UA"', '"\\ud800"')
    assert error_of(client.post(PATH, content=body)) == (422, "rows[0].carrier")


def test_more_rows_than_a_request_may_have_are_413(client: httpx.Client, settings: Settings) -> None:
    body = rows(*({"carrier": f"C{n}"} for n in range(settings.request_rows + 1)))
    assert error_of(client.post(PATH, json=body)) == (413, "rows")


def test_a_body_that_is_too_large_is_413_before_it_is_read(client: httpx.Client, settings: Settings) -> None:
    answer = client.post(PATH, content=b" " * (settings.request_mb * 1_000_000 + 1))
    assert error_of(answer) == (413, "body")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
def test_another_type_of_body_is_415(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.post(PATH, json=rows({}), headers=headers).status_code == 415


def test_a_store_that_is_down_is_503_that_says_to_send_it_again(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object, **__: object) -> Pushed:
        raise FeatureError("The rows are in the lake but not online yet.", looked="/a/private/path", todo="Send again.")

    monkeypatch.setattr(serving.push, "push", down)
    answer = client.post(PATH, json=rows({}))
    assert error_of(answer) == (503, "")
    assert answer.headers["retry-after"] == "1"
    assert "private" not in answer.text


def test_views_that_were_never_applied_are_503(client: httpx.Client, settings: Settings, use_case: UseCase) -> None:
    (repo_folder(use_case, settings) / "catalog.json").unlink()
    assert client.post(PATH, json=rows({})).status_code == 503


def test_predictions_are_answered_while_a_push_is_written_and_too_many_pushes_are_shed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()

    def slow(*_: object, **__: object) -> Pushed:
        go_on.wait(30)
        return Pushed("carrier_view", 1, 1, 1, False)

    monkeypatch.setattr(serving.push, "push", slow)
    monkeypatch.setattr(serving.push, "MAX_WAITING", 2)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, PATH, json=rows({})) for _ in range(3)]
        shed: httpx.Response = next(as_completed(answers, timeout=30)).result()
        assert (shed.status_code, shed.headers["retry-after"]) == (503, "1")
        assert predicted(client) is None
        go_on.set()
        assert sorted(answer.result().status_code for answer in answers) == [200, 200, 503]
    assert 'millrace_shed_total{reason="push",use_case="late"} 1.0' in client.get("/metrics").text


def test_the_route_is_described_and_counted(client: httpx.Client) -> None:
    client.post(PATH, json=rows({}))
    route = "/v1/{use_case}/features/{view}"
    described = client.get("/openapi.json").json()["paths"][route]["post"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["required"] == ["rows"]
    assert f'millrace_requests_total{{route="{route}",status="200"}} 1.0' in client.get("/metrics").text


def test_rows_are_decoded_as_they_are() -> None:
    assert decode_rows(b'{"rows": [{"a": 1, "b": null}, {}]}', max_rows=2) == [{"a": 1, "b": None}, {}]


def test_no_push_reaches_outside_its_folder(client: httpx.Client, settings: Settings, tmp_path: Path) -> None:
    for view in ("..%2f..%2fx", "%2e%2e", "carrier_view%00"):
        assert client.post(f"/v1/late/features/{view}", json=rows({})).status_code == 404
    assert {path.name for path in tmp_path.iterdir()} == {"millrace"}
