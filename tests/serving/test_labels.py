"""Labels over HTTP: kept when they are answered, once, whole or not at all, and refused in the one shape."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import polars as pl
import pytest

import serving.labels
from millrace.db import Database
from millrace.lake import open_lake
from millrace.outcome_log import TABLE, OutcomeLog, Recorded, log_path, ship
from millrace.settings import Settings, child_environment
from serving.keys import api_key

from .conftest import NAME, NOW

PATH = "/v1/late/labels"
LATE = {"prediction_id": "p", "label": True}
NOTHING = {"accepted": 0, "repeated": 0, "corrected": 0, "contradictory": 0}


def labels(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"labels": list(rows)}


def kept(settings: Settings) -> list[tuple[Any, ...]]:
    """What the log has: who, which label, since when."""
    lake = open_lake(settings, NAME)
    ship(log_path(settings, NAME), lake)
    if not lake.exists(TABLE):
        return []
    who = pl.concat_str("prediction_id", "row_key").alias("who")
    return lake.scan(TABLE).select(who, "label", "known_at").sort("who", "known_at", "label").collect().rows()


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and field, after a look that it is the one shape."""
    error = answer.json()["error"]
    assert set(error) == {"status", "what", "field", "todo"}
    assert error["status"] == answer.status_code
    return answer.status_code, error["field"]


def test_labels_by_id_and_by_key_are_kept_when_they_are_answered(client: httpx.Client, settings: Settings) -> None:
    by_key = {"carrier": "UA", "trip": 7, "label": 0, "known_at": "2013-04-01T11:00:00Z"}
    answer = client.post(PATH, json=labels(LATE, by_key))
    assert (answer.status_code, answer.json()) == (200, NOTHING | {"accepted": 2})
    assert kept(settings) == [("UA|7", "0", NOW - timedelta(hours=1)), ("p", "1", NOW)]


def test_a_prediction_s_own_id_is_what_its_label_names(client: httpx.Client, settings: Settings) -> None:
    row = {"carrier": "UA", "distance": 100, "trip": 7}
    (predicted,) = client.post("/v1/late/predict", json={"rows": [row]}).json()["predictions"]
    client.post(PATH, json=labels({"prediction_id": predicted["id"], "label": False}))
    assert kept(settings) == [(predicted["id"], "0", NOW)]


def test_the_same_labels_again_change_nothing(client: httpx.Client, settings: Settings) -> None:
    for expected in (NOTHING | {"accepted": 1}, NOTHING | {"repeated": 1}):
        assert client.post(PATH, json=labels(LATE)).json() == expected
    assert len(kept(settings)) == 1
    assert client.post(PATH, json=labels(LATE)).json() == NOTHING | {"repeated": 1}


def test_a_correction_and_a_contradiction_are_told_and_everything_is_kept(
    client: httpx.Client, settings: Settings
) -> None:
    earlier = LATE | {"known_at": "2013-04-01T10:00:00Z"}
    client.post(PATH, json=labels(earlier))
    assert client.post(PATH, json=labels(LATE | {"label": 0})).json() == NOTHING | {"accepted": 1, "corrected": 1}
    assert client.post(PATH, json=labels(LATE)).json() == NOTHING | {"accepted": 1, "contradictory": 1}
    assert [label for _, label, _ in kept(settings)] == ["1", "0", "1"]


def test_no_labels_are_none(client: httpx.Client) -> None:
    assert client.post(PATH, json=labels()).json() == NOTHING


def test_one_wrong_label_refuses_the_whole_request(client: httpx.Client, settings: Settings) -> None:
    answer = client.post(PATH, json=labels(LATE, LATE | {"label": 2}))
    assert error_of(answer) == (422, "labels[1].label")
    assert kept(settings) == []


def test_a_label_from_the_future_is_422(client: httpx.Client) -> None:
    ahead = LATE | {"known_at": (NOW + timedelta(minutes=6)).isoformat()}
    assert error_of(client.post(PATH, json=labels(ahead))) == (422, "labels[0].known_at")


def test_nothing_of_a_refused_body_is_echoed(client: httpx.Client) -> None:
    for row in ({"prediction_id": "s3cret", "label": "s3cret"}, {"s3cret\n": 1}, {"label": "s3cret"}):
        assert "s3cret" not in client.post(PATH, json=labels(row)).text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"labels": [NaN]}', b"[" * 100_000])
def test_what_is_not_json_of_the_shape_is_a_4xx(client: httpx.Client, body: bytes) -> None:
    assert client.post(PATH, content=body).status_code in (400, 422)


def test_more_labels_than_a_request_may_have_are_413(client: httpx.Client, settings: Settings) -> None:
    many = labels(*[LATE] * (settings.request_rows + 1))
    assert error_of(client.post(PATH, json=many)) == (413, "labels")


def test_a_body_that_is_too_large_is_413_before_it_is_read(client: httpx.Client, settings: Settings) -> None:
    answer = client.post(PATH, content=b" " * (settings.request_mb * 1_000_000 + 1))
    assert error_of(answer) == (413, "body")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
def test_another_type_of_body_is_415(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.post(PATH, json=labels(LATE), headers=headers).status_code == 415


def test_labels_need_the_key(stranger: httpx.Client) -> None:
    assert stranger.post(PATH, json=labels(LATE)).status_code == 401


def test_an_unknown_use_case_is_404(client: httpx.Client) -> None:
    assert error_of(client.post("/v1/early/labels", json=labels(LATE))) == (404, "use_case")


def test_another_method_is_405(client: httpx.Client) -> None:
    assert client.get(PATH).status_code == 405


def test_a_full_disk_is_429_that_says_when_to_come_back(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Recorded:
        raise OSError("/a/private/path cannot be written")

    monkeypatch.setattr(OutcomeLog, "append", full)
    answer = client.post(PATH, json=labels(LATE))
    assert error_of(answer) == (429, "")
    assert answer.headers["retry-after"] == "5"
    assert "private" not in answer.text
    assert 'millrace_shed_total{reason="labels",use_case="late"} 1.0' in client.get("/metrics").text


def test_predictions_are_answered_while_labels_are_written_and_too_many_are_shed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()

    def slow(*_: object, **__: object) -> Recorded:
        go_on.wait(30)
        return Recorded(1)

    monkeypatch.setattr(OutcomeLog, "append", slow)
    monkeypatch.setattr(serving.labels, "MAX_WAITING", 2)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, PATH, json=labels(LATE)) for _ in range(3)]
        shed: httpx.Response = next(as_completed(answers, timeout=30)).result()
        assert (shed.status_code, shed.headers["retry-after"]) == (503, "1")
        assert client.post("/v1/late/predict", json={"rows": [{"carrier": "UA", "distance": 1}]}).status_code == 200
        go_on.set()
        assert sorted(answer.result().status_code for answer in answers) == [200, 200, 503]


def test_many_clients_at_once_all_get_their_labels_in(client: httpx.Client, settings: Settings) -> None:
    rows = [[{"prediction_id": f"{number % 20}-{part}", "label": 1} for part in range(5)] for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(lambda row: client.post(PATH, json=labels(*row)), rows)]
    assert sum(answer["accepted"] for answer in answers) == sum(answer["repeated"] for answer in answers) == 100
    assert len(kept(settings)) == 100


def test_what_was_taken_is_counted_by_kind(client: httpx.Client) -> None:
    client.post(PATH, json=labels(LATE, LATE, LATE | {"label": 0}, LATE | {"prediction_id": "q"}))
    page = client.get("/metrics").text
    for kind, number in {"new": 2, "repeated": 1, "corrected": 0, "contradictory": 1}.items():
        assert f'millrace_labels_total{{kind="{kind}",use_case="late"}} {number}.0' in page
    assert 'millrace_requests_total{route="/v1/{use_case}/labels",status="200"} 1.0' in page


def test_the_route_is_described_with_an_example_that_works(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/{use_case}/labels"]["post"]
    content = described["requestBody"]["content"]["application/json"]
    assert [form["required"] for form in content["schema"]["properties"]["labels"]["items"]["anyOf"]] == [
        ["label", "prediction_id"],
        ["label", "carrier", "trip"],
    ]
    answer = client.post(PATH, json=content["examples"]["late"]["value"])
    told = described["responses"]["200"]["content"]["application/json"]
    assert (answer.status_code, answer.json()) == (200, told["example"])
    assert answer.json().keys() == set(told["schema"]["required"])


@pytest.mark.parametrize("name", ["..%2f..%2fx", "%2e%2e", "late%00"])
def test_no_label_reaches_outside_its_folder(client: httpx.Client, tmp_path: Path, name: str) -> None:
    assert client.post(f"/v1/{name}/labels", json=labels(LATE)).status_code == 404
    assert {path.name for path in tmp_path.iterdir()} == {"millrace"}


SERVER = """
import socket
from tests.serving.conftest import late_use_case
from millrace.settings import read_settings
from serving.app import create_app
from serving.run import Server
app = create_app(read_settings(), [late_use_case()])
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    Server(app).run(sockets=[listener])
"""


def post_until_killed(settings: Settings, name: str, *, at: int) -> list[str]:
    """Post pairs of labels to a server in a process of its own, which is killed in mid-request; the pairs that it
    acknowledged."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, env=child_environment(settings)
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        acknowledged: list[str] = []

        def post(client: httpx.Client, pair: str) -> None:
            rows = [{"prediction_id": f"{pair}.{part}", "label": 1} for part in "ab"]
            if client.post(PATH, json=labels(*rows)).status_code == 200:
                acknowledged.append(pair)
            if len(acknowledged) >= at:
                process.send_signal(signal.SIGKILL)

        with (
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": api_key(settings)}, timeout=30
            ) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            posts = [pool.submit(post, client, f"{name}{number}") for number in range(at + 200)]
            assert any(isinstance(post.exception(), httpx.TransportError) for post in posts)
    return acknowledged


def test_what_a_killed_server_acknowledged_is_kept_and_nothing_by_halves(db: Database, settings: Settings) -> None:
    acknowledged = post_until_killed(settings, "first", at=40) + post_until_killed(settings, "second", at=150)
    ids = [who for who, *_ in kept(settings)]
    assert len(ids) == len(set(ids))
    pairs = [name.partition(".")[0] for name in ids]
    assert set(acknowledged) <= set(pairs)
    assert all(pairs.count(pair) == 2 for pair in pairs)
    assert len(acknowledged) >= 190
