"""MLflow's scoring protocol: MLflow's own client predicts, and what it gets is what MLflow's own server would say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from millrace.db import ModelRow
from millrace.pyfunc import _load_pyfunc
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.keys import api_key

from ..conftest import CONTRACT, NOW, FakeReader, Promote, client_of, late_use_case

PATH = "/invocations"
ROWS = [{"delay": 0.5, "far": 0.25}, {"delay": None, "far": 1.0}]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("delay", "far")}
FORMS: list[dict[str, Any]] = [
    {"dataframe_split": {"columns": ["delay", "far"], "data": [list(row.values()) for row in ROWS]}},
    {"dataframe_split": {"columns": ["delay", "far"], "index": [7, 8], "data": [list(row.values()) for row in ROWS]}},
    {"dataframe_records": ROWS},
    {"instances": ROWS},
    {"instances": COLUMNS},
    {"inputs": ROWS},
    {"inputs": COLUMNS},
]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


SCORES = [sigmoid(0.25), sigmoid(-1)]


def unchanged(client: httpx.Client, settings: Settings) -> ScoringServerClient:
    """MLflow's client as its users have it; the key is the password in the address, the user's name is any."""
    return ScoringServerClient(f"millrace:{api_key(settings)}@{client.base_url.host}", client.base_url.port)


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["predictions"]
    return [one["score"] for one in answer.json()["predictions"]]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_is_scored(client: httpx.Client, form: dict[str, Any]) -> None:
    for path in (PATH, "/v1/late/invocations"):
        assert scores(client.post(path, json=form)) == pytest.approx(SCORES, abs=1e-6)


def test_an_unchanged_client_waits_for_the_server_and_predicts(client: httpx.Client, settings: Settings) -> None:
    mlflows = unchanged(client, settings)
    mlflows.wait_server_ready(timeout=10)
    assert mlflows.get_version() == mlflow.__version__
    frame = pd.DataFrame(ROWS)
    assert frame["delay"].isna().any()  # which the client writes as NaN
    assert mlflows.invoke(frame).get_predictions()["score"].tolist() == pytest.approx(SCORES, abs=1e-6)
    assert mlflows.invoke(ROWS).get_predictions()["score"].tolist() == pytest.approx(SCORES, abs=1e-6)


def test_the_key_may_stand_in_a_netrc(
    client: httpx.Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {client.base_url.host} login millrace password {api_key(settings)}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    mlflows = ScoringServerClient(client.base_url.host, client.base_url.port)
    assert len(mlflows.invoke(pd.DataFrame(ROWS)).get_predictions()) == 2


def test_an_unchanged_client_shows_why_it_was_refused(client: httpx.Client, settings: Settings) -> None:
    with pytest.raises(Exception, match=r"error code 422.*rows\[0\].late"):
        unchanged(client, settings).invoke(pd.DataFrame([{"delay": 1, "far": 0, "late": 1}]))
    with pytest.raises(Exception, match="ping failed \\(error code 401\\)"):
        ScoringServerClient(client.base_url.host, client.base_url.port).ping()


@pytest.fixture
def by_itself(settings: Settings, promote: Promote) -> ModelRow:
    """A champion that reads nothing: a row gives all its features."""
    return promote(contract=replace(CONTRACT, read_plan={}))


@pytest.fixture
def bare(settings: Settings, by_itself: ModelRow) -> Iterator[httpx.Client]:
    """A client of the server of that champion."""
    use_case: UseCase = replace(
        late_use_case(), feature_repo=None, feature_tables=(), on_demand=(), request_features=("delay", "far")
    )
    with client_of(create_app(settings, [use_case], clock=lambda: NOW), settings) as client:
        yield client


def test_what_it_answers_is_what_mlflows_model_answers(
    bare: httpx.Client, settings: Settings, by_itself: ModelRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(settings.home))
    model = _load_pyfunc(by_itself.bundle)
    numbers = np.random.default_rng(0).normal(size=(200, 2)).round(3)
    numbers[::7, 0] = np.nan
    frame = pd.DataFrame(numbers, columns=["delay", "far"])
    answered = unchanged(bare, settings).invoke(frame)
    assert answered["predictions"] == model.predict(frame).to_dict(orient="records")


def test_rows_by_keys_are_read_as_of_the_parameter_at(client: httpx.Client, reader: FakeReader) -> None:
    body = {"dataframe_records": [{"carrier": "UA", "distance": 200}], "params": {"at": "2013-03-01T00:00:00Z", "k": 1}}
    assert scores(client.post(PATH, json=body)) == pytest.approx([sigmoid(0.3)], abs=1e-6)
    assert reader.reads == [(1, NOW.replace(month=3, day=1, hour=0))]


def test_no_rows_are_no_predictions(client: httpx.Client) -> None:
    empty: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": ["delay"], "data": []}},
        {"inputs": []},
        {"inputs": {"delay": []}},
    ]
    for body in empty:
        assert scores(client.post(PATH, json=body)) == []


def test_only_the_word_nan_is_missing_and_not_the_text(client: httpx.Client) -> None:
    body = b'{"dataframe_records": [{"carrier": "NaN \\" NaN", "distance": NaN}]}'
    assert scores(client.post(PATH, content=body)) == [0.5]


def test_without_a_use_case_it_is_for_servers_of_one(settings: Settings, promote: Promote, reader: FakeReader) -> None:
    promote()
    early = replace(late_use_case(), name="early")
    app = create_app(settings, [late_use_case(), early], clock=lambda: NOW, reader_of=lambda *_: reader)
    with client_of(app, settings) as client:
        answer = client.post(PATH, json=FORMS[2])
        assert (answer.status_code, answer.json()["error"]["field"]) == (404, "use_case")
        assert "/v1/{use_case}/invocations" in answer.json()["error"]["todo"]
        assert len(scores(client.post("/v1/late/invocations", json=FORMS[2]))) == 2
        assert client.post("/v1/early/invocations", json=FORMS[2]).status_code == 503
        assert client.post("/v1/none/invocations", json=FORMS[2]).status_code == 404


BAD: list[tuple[Any, int, str]] = [
    ({}, 422, "body"),
    ([], 422, "body"),
    ({"inputs": ROWS, "instances": ROWS}, 422, "body"),
    ({"inputs": ROWS, "SECRET": 1}, 422, "body"),
    ({"inputs": ROWS, "params": 1}, 422, "params"),
    ({"inputs": ROWS, "params": {"at": "SECRET"}}, 422, "at"),
    ({"dataframe_records": {"delay": [1]}}, 422, "dataframe_records"),
    ({"dataframe_records": [1]}, 422, "dataframe_records[0]"),
    ({"dataframe_records": [{"delay": "SECRET", "far": 0}]}, 422, "rows[0].delay"),
    ({"dataframe_records": [{"delay": 2**200, "far": 0}]}, 422, "rows[0].delay"),
    ({"dataframe_records": [{"delay": {"a": 1}, "far": 0}]}, 422, "dataframe_records[0][...]"),
    ({"dataframe_records": [{"delay": 1}]}, 422, "rows[0].distance"),
    ({"dataframe_records": [{"carrier": "a\0b", "distance": 1}]}, 422, "rows[0].carrier"),
    ({"dataframe_records": [{}] * 1_001}, 413, "dataframe_records"),
    ({"dataframe_split": {"data": [[1, 2]]}}, 422, "dataframe_split"),
    ({"dataframe_split": {"columns": ["delay"]}}, 422, "dataframe_split"),
    ({"dataframe_split": {"columns": ["delay"], "data": [[1]], "SECRET": 1}}, 422, "dataframe_split"),
    ({"dataframe_split": {"columns": ["delay", "delay"], "data": [[1, 2]]}}, 422, "dataframe_split.columns"),
    ({"dataframe_split": {"columns": ["delay", "far"], "data": [[1, 2], [1]]}}, 422, "dataframe_split.data[1]"),
    ({"dataframe_split": {"columns": ["delay", "far"], "data": [1]}}, 422, "dataframe_split.data[0]"),
    ({"dataframe_split": {"columns": [], "data": [[]] * 1_001}}, 413, "dataframe_split.data"),
    ({"inputs": {}}, 422, "inputs"),
    ({"inputs": {"delay": [1, 2], "far": [1]}}, 422, "inputs"),
    ({"inputs": {"delay": 1, "far": 1}}, 422, "inputs[...]"),
    ({"inputs": {"delay": [0] * 1_001}}, 413, "inputs"),
    ({"inputs": [[1, 2]]}, 422, "inputs[0]"),
    ({"instances": [[1, 2]]}, 422, "instances[0]"),
    ({"instances": "SECRET"}, 422, "instances"),
]


def test_a_bad_request_is_refused_and_named(client: httpx.Client) -> None:
    for body, status, field in BAD:
        expect(client.post(PATH, json=body), status, field)


BAD_TEXT: list[tuple[bytes, int, str]] = [
    (b"", 400, "body"),
    (b"NaN", 422, "body"),
    (b'{"inputs": [{"delay": Infinity, "far": 0}]}', 400, "body"),
    (b'{"inputs": [{"delay": -NaN, "far": 0}]}', 400, "body"),
    (b'{"inputs": [{"delay": NaNa, "far": 0}]}', 400, "body"),
    (b'{"inputs": [{"delay": 1e400, "far": 0}]}', 422, "inputs[0][...]"),
    (b'{"inputs": [{"delay": "\\ud800", "far": 0}]}', 400, "body"),
    (b'{"inputs": [{"delay": "\xff", "far": 0}]}', 400, "body"),
    (b'{"inputs": [{"delay": 1, "delay": 2, "far": 0}]}', 422, "body"),
    (b'{"inputs": [], "inputs": []}', 422, "body"),
    (b'{"inputs": ' + b"[" * 100_000, 422, "inputs[0]"),
    (b'{"params": {"a": ' + b"[" * 100_000, 422, "params[...][0]"),
    (b'{"inputs": [{"delay": ' + b"[" * 900 + b"]" * 900 + b', "far": 0}]}', 422, "inputs[0][...][0]"),
    (b'{"inputs": {"delay": [' + b"NaN," * 900_000 + b"1]}}", 413, "body"),
    (b'{"inputs": []} SECRET', 400, "body"),
    (b'{"inputs": [{"delay": "NaN' + b'\\"' * 1_900_000, 400, "body"),
]


def test_what_is_no_strict_json_is_refused(client: httpx.Client) -> None:
    for body, status, field in BAD_TEXT:
        expect(client.post(PATH, content=body), status, field)


def test_another_type_is_refused_and_a_charset_is_not(client: httpx.Client) -> None:
    body = json.dumps(FORMS[0]).encode()
    told = {"Content-Type": "application/json; charset=utf-8"}
    assert len(scores(client.post(PATH, content=body, headers=told))) == 2
    for kind in ("text/csv", "application/vnd.apache.parquet"):
        expect(client.post(PATH, content=b"delay,far\n1,2\n", headers={"Content-Type": kind}), 415, "Content-Type")


def test_everything_of_it_needs_a_key(stranger: httpx.Client) -> None:
    for path in ("/ping", "/health", "/version", PATH, "/v1/late/invocations"):
        assert stranger.get(path).status_code == 401
        assert stranger.post(path, json=FORMS[0]).status_code == 401


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["inputs", "instances", "dataframe_split", "columns", "data", "delay", "far"]),
                    inner,
                    max_size=3,
                ),
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_random_bodies_are_never_a_server_error(client: httpx.Client, body: bytes) -> None:
    answer = client.post(PATH, content=body)
    assert answer.status_code == 200 or 400 <= answer.status_code < 500


def expect(answer: httpx.Response, status: int, field: str) -> None:
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text
    assert "SECRET" not in answer.text
