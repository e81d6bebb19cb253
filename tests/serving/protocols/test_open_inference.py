"""The Open Inference Protocol v2: an unchanged client infers, JSON and binary; what is wrong is refused, named."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from millrace.db import Database
from millrace.errors import RequestError
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.keys import api_key
from serving.protocols.open_inference import OpenInference

from ..conftest import NOW, FakeReader, Promote, holder_of

INFER = "/v2/models/late/infer"
LENGTH = "Inference-Header-Content-Length"


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


class Client:
    """tritonclient as its users have it, with the key in its headers."""

    def __init__(self, client: triton.InferenceServerClient, headers: dict[str, str]) -> None:
        self.client, self.headers = client, headers

    def infer(self, inputs: list[triton.InferInput], **more: Any) -> triton.InferResult:
        return self.client.infer("late", inputs, headers=dict(self.headers), **more)


@pytest.fixture
def unchanged(client: httpx.Client, settings: Settings) -> Iterator[Client]:
    address = f"{client.base_url.host}:{client.base_url.port}"
    with triton.InferenceServerClient(address) as found:
        yield Client(found, {"X-API-Key": api_key(settings)})


def tensor(name: str, values: Any, datatype: str, binary: bool = True) -> triton.InferInput:
    array = np.array(values, dtype=triton_to_np_dtype(datatype))
    found = triton.InferInput(name, list(array.shape), datatype)
    return found.set_data_from_numpy(array, binary_data=binary)


def test_an_unchanged_client_reads_health_and_metadata(unchanged: Client) -> None:
    client, headers = unchanged.client, unchanged.headers
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("late", headers=headers)
    assert client.is_model_ready("late", "1", headers=headers)
    assert not client.is_model_ready("late", "2", headers=headers)
    assert not client.is_model_ready("early", headers=headers)
    assert not client.is_model_ready("late")
    assert client.get_server_metadata(headers=headers)["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("late", "1", headers=headers)
    assert metadata == client.get_model_metadata("late", headers=headers)
    assert metadata["versions"] == ["1"]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in metadata["inputs"]} == {
        "carrier": ("BYTES", [-1]),
        "trip": ("BYTES", [-1]),
        "delay": ("FP64", [-1]),
        "far": ("FP64", [-1]),
        "distance": ("FP64", [-1]),
    }
    assert [(one["name"], one["datatype"]) for one in metadata["outputs"]] == [
        ("score", "FP64"),
        ("id", "BYTES"),
        ("flags", "BYTES"),
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_an_unchanged_client_infers_by_keys(unchanged: Client, binary: bool) -> None:
    inputs = [
        tensor("carrier", ["UA", "ZZ"], "BYTES", binary),
        tensor("distance", [200, 100], "FP32", binary),
        tensor("trip", [7, 8], "INT64", binary),
    ]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("flags", "score", "id")]
    answer = unchanged.infer(inputs, outputs=wanted, request_id="r-1")
    assert answer.as_numpy("score").tolist() == pytest.approx([sigmoid(0.5 - 0.2), sigmoid(-0.1)], abs=1e-6)
    flags = ["", "missing:carrier_view"]
    assert [str(one, "utf-8") if binary else one for one in answer.as_numpy("flags")] == flags
    assert all(len(one) == 32 for one in answer.as_numpy("id"))
    told = answer.get_response()
    assert (told["model_name"], told["model_version"], told["id"]) == ("late", "1", "r-1")


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("binary", [True, False])
def test_numbers_come_in_every_datatype(
    unchanged: Client, reader: FakeReader, binary: bool, shape: tuple[int, ...]
) -> None:
    values = np.array([1, 2, 3]).reshape(shape)
    for datatype in ("FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"):
        given = [tensor("delay", values, datatype, binary), tensor("far", values * 0, datatype, binary)]
        scores = unchanged.infer(given).as_numpy("score").tolist()
        assert scores == pytest.approx([sigmoid(one) for one in (1, 2, 3)], abs=1e-6), datatype
    assert reader.reads == []


def test_a_version_is_inferred_only_while_it_serves(unchanged: Client, promote: Promote) -> None:
    inputs = [tensor("delay", [1.0], "FP64"), tensor("far", [0.0], "FP64")]
    assert unchanged.infer(inputs, model_version="1").as_numpy("score") == pytest.approx([sigmoid(1)], abs=1e-6)
    with pytest.raises(InferenceServerException, match="version 1 is") as refused:
        unchanged.infer(inputs, model_version="2")
    assert refused.value.status() == "404"


def test_the_version_is_that_of_the_very_model_that_answers(
    use_case: UseCase, settings: Settings, db: Database, reader: FakeReader, promote: Promote
) -> None:
    promote()
    holder = holder_of(use_case, settings, db, reader)
    holder.refresh()
    body = json.dumps(json_inputs(delay=("FP64", [1]), far=("FP64", [0]))).encode()
    assert OpenInference(max_rows=1, version="1").parse(body, {}, holder.champion()).rows == [{"delay": 1, "far": 0}]
    promote(2)
    holder.refresh()
    with pytest.raises(RequestError, match="version 2 is"):
        OpenInference(max_rows=1, version="1").parse(body, {}, holder.champion())
    holder.close()


def test_nan_in_binary_and_null_in_json_are_missing(client: httpx.Client, unchanged: Client) -> None:
    inputs = [tensor("delay", [np.nan, 1], "FP32"), tensor("far", [0.5, np.nan], "FP64")]
    expected = pytest.approx([sigmoid(-0.5), sigmoid(1)], abs=1e-6)
    assert unchanged.infer(inputs).as_numpy("score").tolist() == expected
    nulls = json_inputs(delay=("FP64", [None, 1]), far=("FP64", [0.5, None]))
    assert outputs(client.post(INFER, json=nulls))["score"] == expected


def test_an_error_is_a_text_that_the_client_shows(unchanged: Client) -> None:
    with pytest.raises(InferenceServerException) as refused:
        unchanged.infer([tensor("early", [1.0], "FP64")])
    assert str(refused.value).startswith("[422] inputs[0].name: The model has no input of this name.")
    with pytest.raises(InferenceServerException, match="This needs a key"):
        unchanged.client.get_model_metadata("late")
    with pytest.raises(InferenceServerException, match="no model of this name"):
        unchanged.client.get_model_metadata("early", headers=unchanged.headers)


def test_what_else_triton_has_is_404_in_the_same_shape(unchanged: Client) -> None:
    with pytest.raises(InferenceServerException, match="nothing at this address"):
        unchanged.client.get_model_repository_index(headers=unchanged.headers)


def test_a_compressed_body_is_refused(unchanged: Client) -> None:
    inputs = [tensor("delay", [1.0], "FP64"), tensor("far", [0.0], "FP64")]
    with pytest.raises(InferenceServerException, match="must not be compressed") as refused:
        unchanged.infer(inputs, request_compression_algorithm="gzip")
    assert refused.value.status() == "415"


def test_outputs_follow_the_request(client: httpx.Client) -> None:
    body = json_inputs(delay=("FP64", [1]), far=("FP64", [0]))
    assert list(outputs(client.post(INFER, json=body))) == ["score", "id", "flags"]
    assert list(outputs(client.post(INFER, json=body | {"outputs": [{"name": "id"}, {"name": "score"}]}))) == [
        "id",
        "score",
    ]
    mixed = [{"name": "id"}, {"name": "score", "parameters": {"binary_data": True}}]
    answer = client.post(INFER, json=body | {"outputs": mixed})
    length = int(answer.headers[LENGTH])
    assert answer.headers["content-type"] == "application/octet-stream"
    told = json.loads(answer.content[:length])["outputs"]
    assert told[1] == {"name": "score", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    assert len(told[0]["data"][0]) == 32
    assert struct.unpack("<d", answer.content[length:])[0] == pytest.approx(sigmoid(1), abs=1e-6)


def test_an_id_is_repeated_only_when_it_is_a_short_token(client: httpx.Client) -> None:
    body = json_inputs(delay=("FP64", [1]), far=("FP64", [0]))
    assert client.post(INFER, json=body | {"id": "a-1"}).json()["id"] == "a-1"
    for odd in ("<script>", "x" * 65, "", None):
        assert "id" not in client.post(INFER, json=body | {"id": odd}).json()


def test_features_are_read_as_of_the_parameter_at(client: httpx.Client, reader: FakeReader) -> None:
    body = json_inputs(carrier=("BYTES", ["UA"]), distance=("FP64", [0]))
    client.post(INFER, json=body | {"parameters": {"at": "2013-03-01T00:00:00Z"}})
    client.post(INFER, json=body)
    assert [at for _, at in reader.reads] == [NOW.replace(month=3, day=1, hour=0), NOW]


def test_no_rows_are_empty_outputs(client: httpx.Client, unchanged: Client) -> None:
    body = json_inputs(delay=("FP64", []), far=("FP64", []))
    assert outputs(client.post(INFER, json=body)) == {"score": [], "id": [], "flags": []}
    empty = [tensor("delay", [], "FP64"), tensor("far", [], "FP64")]
    assert unchanged.infer(empty).as_numpy("id").shape == (0,)


def json_inputs(**tensors: tuple[str, list[Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}
            for name, (datatype, data) in tensors.items()
        ]
    }


def outputs(answer: httpx.Response) -> dict[str, list[Any]]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: one["data"] for one in answer.json()["outputs"]}


def one(name: str = "delay", shape: Any = (1,), datatype: Any = "FP64", **more: Any) -> dict[str, Any]:
    """A tensor with what is wrong in it."""
    return {"name": name, "shape": shape, "datatype": datatype} | (more or {"data": [1]})


FAR = one("far")
BAD_JSON: list[tuple[Any, int, str]] = [
    ({}, 422, "body"),
    ({"inputs": []}, 422, "inputs"),
    ({"inputs": {}}, 422, "inputs"),
    ({"inputs": [1]}, 422, "inputs[0]"),
    ({"inputs": [{"name": "delay", "datatype": "FP64", "data": [1]}]}, 422, "inputs[0]"),
    ({"inputs": [FAR], "model": "SECRET"}, 422, "body"),
    ({"inputs": [FAR | {"SECRET": 1}]}, 422, "inputs[0]"),
    ({"inputs": [one(shape=[2]), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(shape=[1]), one("far", [2], data=[1, 2])]}, 422, "inputs[1].shape"),
    ({"inputs": [one(shape=[]), FAR]}, 422, "inputs[0].shape"),
    ({"inputs": [one(shape=[1, 1, 1]), FAR]}, 422, "inputs[0].shape"),
    ({"inputs": [one(shape=[1, 2]), FAR]}, 422, "inputs[0].shape"),
    ({"inputs": [one(shape=[1, 2**40]), FAR]}, 422, "inputs[0].shape"),
    ({"inputs": [one(shape=[-1]), FAR]}, 422, "inputs[0].shape[0]"),
    ({"inputs": [one(shape=[True]), FAR]}, 422, "inputs[0].shape[0]"),
    ({"inputs": [one(shape=[1.0]), FAR]}, 422, "inputs[0].shape[0]"),
    ({"inputs": [one(shape=["1"]), FAR]}, 422, "inputs[0].shape[0]"),
    ({"inputs": [one(shape=[2**70]), FAR]}, 422, "inputs[0].shape[0]"),
    ({"inputs": [one(shape=[2**40]), FAR]}, 413, "inputs[0].shape"),
    ({"inputs": [one(shape=[1_001], data=[1] * 1_001)]}, 413, "inputs[0].shape"),
    ({"inputs": [one(datatype="BYTES", data=["SECRET"]), FAR]}, 422, "inputs[0].datatype"),
    ({"inputs": [one(datatype="BF16"), FAR]}, 422, "inputs[0].datatype"),
    ({"inputs": [one(datatype=7), FAR]}, 422, "inputs[0].datatype"),
    ({"inputs": [one("carrier", datatype="FP64")]}, 422, "inputs[0].datatype"),
    ({"inputs": [one(), one()]}, 422, "inputs[1].name"),
    ({"inputs": [one("SECRET")]}, 422, "inputs[0].name"),
    ({"inputs": [one()]}, 422, "rows[0].distance"),
    ({"inputs": [one(data=["SECRET"]), FAR]}, 422, "inputs[0].data[0]"),
    ({"inputs": [one(data=[True]), FAR]}, 422, "inputs[0].data[0]"),
    ({"inputs": [one(data=[[[1]]]), FAR]}, 422, "inputs[0].data[0][0]"),
    ({"inputs": [one(data=[1, 2]), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(datatype="INT64", data=[1.5]), FAR]}, 422, "inputs[0].data[0]"),
    ({"inputs": [one(datatype="INT64", data=[2**70]), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(datatype="UINT8", data=[-1]), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(data=[2**200]), FAR]}, 422, "rows[0].delay"),
    ({"inputs": [one(data={"a": 1}), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(parameters={}), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(parameters={"shared_memory_region": "SECRET"}), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one(parameters={"binary_data_size": 8}), FAR]}, 400, "inputs[0]"),
    ({"inputs": [one(parameters={"binary_data_size": -1}), FAR]}, 422, "inputs[0].parameters.binary_data_size"),
    ({"inputs": [one(parameters={"binary_data_size": True}), FAR]}, 422, "inputs[0].parameters.binary_data_size"),
    ({"inputs": [one(parameters={"binary_data_size": 8}, data=[1]), FAR]}, 422, "inputs[0].data"),
    ({"inputs": [one("carrier", datatype="BYTES", data=["a\0b"]), one("distance")]}, 422, "rows[0].carrier"),
    ({"inputs": [one("carrier", datatype="BYTES", data=["x" * 1_001]), one("distance")]}, 422, "rows[0].carrier"),
    ({"inputs": [one(), FAR], "outputs": [{"name": "SECRET"}]}, 422, "outputs[0].name"),
    ({"inputs": [one(), FAR], "outputs": [{"name": "id"}, {"name": "id"}]}, 422, "outputs[1].name"),
    (
        {"inputs": [one(), FAR], "outputs": [{"name": "score", "parameters": {"classification": 1}}]},
        422,
        "outputs[0].parameters",
    ),
    (
        {"inputs": [one(), FAR], "outputs": [{"name": "score", "parameters": {"binary_data": 1}}]},
        422,
        "outputs[0].parameters.binary_data",
    ),
    ({"inputs": [one(), FAR], "parameters": {"binary_data_output": "SECRET"}}, 422, "parameters.binary_data_output"),
    ({"inputs": [one(), FAR], "parameters": {"at": "SECRET"}}, 422, "at"),
    ({"inputs": [one(), FAR], "parameters": {"at": "2013-03-01T00:00:00"}}, 422, "at"),
    ({"inputs": [one(), FAR], "parameters": {"at": {"a": 1}}}, 422, "parameters[...]"),
]


def test_a_bad_request_is_refused_and_named(client: httpx.Client) -> None:
    for body, status, field in BAD_JSON:
        expect(client.post(INFER, json=body), status, field)


RAW_FAR = b',{"name": "far", "shape": [1], "datatype": "FP64", "data": [1]}'


def raw_json(data: bytes, name: bytes = b"delay", datatype: bytes = b"FP64", more: bytes = b"") -> bytes:
    told = name, datatype, data, more
    return b'{"inputs": [{"name": "%b", "shape": [1], "datatype": "%b", "data": %b}%b]}' % told


BAD_TEXT: list[tuple[bytes, int, str]] = [
    (b"", 400, "body"),
    (b"[]", 422, "body"),
    (b"{", 400, "body"),
    (raw_json(b"[NaN]"), 400, "body"),
    (raw_json(b"[Infinity]"), 400, "body"),
    (raw_json(b"[1e400]"), 422, "inputs[0].data[0]"),
    (raw_json(b'["\\ud800"]'), 400, "body"),
    (raw_json(b'["\xff"]', b"carrier", b"BYTES"), 400, "body"),
    (raw_json(b"[1]") + b"SECRET", 400, "body"),
    (raw_json(b"[" * 100_000), 400, "body"),
    (raw_json(b"[" * 900 + b"]" * 900), 422, "inputs[0].data[0][0]"),
    (raw_json(b"[" + b"[]," * 1_000_000 + b"[]]"), 422, "inputs[0].data"),
    (raw_json(b"[" + b'["a"],' * 600_000 + b"[]]", b"carrier", b"BYTES"), 422, "inputs[0].data"),
    (raw_json(b'[1], "data": [2]', more=RAW_FAR), 422, "body"),
    (raw_json(b'[1], "parameters": {"a": 1, "a": 2}', more=RAW_FAR), 422, "body"),
    (raw_json(b'[1], "parameters": {"a": 1, "b": ":"}', more=RAW_FAR[:-1] + b',"shape":[1]}'), 422, "body"),
    (raw_json(b'[1], "parameters": {"a": ' + b"[" * 900 + b"]" * 900 + b"}"), 422, "inputs[0].parameters[...]"),
]


def test_what_is_no_strict_json_is_refused(client: httpx.Client) -> None:
    for body, status, field in BAD_TEXT:
        expect(client.post(INFER, content=body, headers={"Content-Type": "application/json"}), status, field)


def binary(inputs: list[tuple[dict[str, Any], bytes]], length: int | str | None = None) -> tuple[bytes, dict[str, str]]:
    """A body of raw inputs, each with its size, and its headers."""
    told = [spec | {"parameters": {"binary_data_size": len(raw)} | spec.get("parameters", {})} for spec, raw in inputs]
    text = json.dumps({"inputs": told}).encode()
    headers = {LENGTH: str(len(text) if length is None else length), "Content-Type": "application/octet-stream"}
    return text + b"".join(raw for _, raw in inputs), headers


def spec(name: str = "delay", shape: Any = (1,), datatype: str = "FP64", **parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
    return found | ({"parameters": parameters} if parameters else {})


DISTANCE = (spec("distance"), struct.pack("<d", 1))


BAD_BINARY: list[tuple[tuple[bytes, dict[str, str]], int, str]] = [
    (binary([(spec(), b"\0" * 8), (spec("far"), b"\0" * 7)]), 422, "inputs[1].parameters.binary_data_size"),
    (binary([(spec(), b"\0" * 8), (spec("far", binary_data_size=9), b"\0" * 8)]), 400, "inputs[1]"),
    (binary([(spec(), b"\0" * 8), (spec("far", binary_data_size=2**70), b"")]), 400, "inputs[1]"),
    (binary([(spec(), b"\0" * 8), (spec("far", binary_data_size=8), b"\0" * 9)]), 400, "body"),
    (binary([(spec(shape=[2**40]), b"\0" * 8)]), 413, "inputs[0].shape"),
    (binary([(spec(shape=[1_000]), b"\0" * 8)]), 422, "inputs[0].parameters.binary_data_size"),
    (binary([(spec(), struct.pack("<d", math.inf)), (spec("far"), b"\0" * 8)]), 422, "rows[0].delay"),
    (binary([(spec("carrier", datatype="BYTES"), b"\x02\0\0\0a")]), 422, "inputs[0]"),
    (binary([(spec("carrier", datatype="BYTES"), b"\xff\xff\xff\xff")]), 422, "inputs[0]"),
    (binary([(spec("carrier", datatype="BYTES"), b"\x01\0")]), 422, "inputs[0]"),
    (binary([(spec("carrier", datatype="BYTES"), b"\0\0\0\0\0\0\0\0")]), 422, "inputs[0]"),
    (binary([(spec("carrier", datatype="BYTES"), b"\x01\0\0\0\xff"), DISTANCE]), 422, "inputs[0]"),
    (binary([(spec("carrier", datatype="BYTES"), b"\x01\0\0\0\0"), DISTANCE]), 422, "rows[0].carrier"),
    (binary([(spec(), b"\0" * 8)], length=10**6), 400, LENGTH),
    (binary([(spec(), b"\0" * 8)], length="-1"), 400, LENGTH),
    (binary([(spec(), b"\0" * 8)], length="9" * 30), 400, LENGTH),
    (binary([(spec(), b"\0" * 8)], length="SECRET"), 400, LENGTH),
    (binary([(spec(), b"\0" * 8)], length=0), 400, "body"),
    (binary([(spec(), b"\0" * 8)], length=5), 400, "body"),
]


def test_bad_binary_data_is_refused(client: httpx.Client) -> None:
    for (body, headers), status, field in BAD_BINARY:
        expect(client.post(INFER, content=body, headers=headers), status, field)


def test_an_empty_element_is_an_empty_text(client: httpx.Client) -> None:
    body, headers = binary([(spec("carrier", datatype="BYTES"), b"\0\0\0\0"), DISTANCE])
    assert outputs(client.post(INFER, content=body, headers=headers))["flags"] == ["missing:carrier_view"]


def test_raw_data_needs_its_header_and_json_its_type(client: httpx.Client) -> None:
    raw = {"Content-Type": "application/octet-stream"}
    expect(client.post(INFER, content=b"{}", headers=raw), 415, "Content-Type")
    expect(client.post(INFER, content=b"{}", headers={"Content-Type": "text/plain", LENGTH: "2"}), 415, "Content-Type")


def test_odd_names_and_versions_reach_nothing(client: httpx.Client) -> None:
    odd = ("early", "system-health", "../../etc", "..%2f..%2fetc", "%2e%2e", "late%2f", "LATE", "late;x")
    paths = [f"/v2/models/{name}{rest}" for name in odd for rest in ("", "/ready", "/versions/1")]
    for version in ("0", "01", "%31 ", "%2e%2e", "1e0"):
        paths += [f"/v2/models/late/versions/{version}{rest}" for rest in ("", "/ready")]
    for path in paths:
        assert client.get(path).status_code == 404, path
    for path in [f"/v2/models/{name}/infer" for name in odd] + ["/v2/models/late/versions/2/infer"]:
        assert client.post(path, json={"inputs": []}).status_code == 404, path


def test_system_health_needs_a_key(stranger: httpx.Client) -> None:
    for path in ("/v2/models/system-health/ready", "/v2/health/live/", "/v2/health/%6cive", "/v2", "/v2/models/late"):
        assert stranger.get(path).status_code == 401
    assert stranger.post("/v2/models/late/infer", content=b"{}").status_code == 401
    assert stranger.get("/v2/health/live").json() == {"live": True}
    assert stranger.get("/v2/health/ready").json() == {"ready": True}


def test_it_is_counted_by_its_address(client: httpx.Client) -> None:
    body = json_inputs(delay=("FP64", [1]), far=("FP64", [0]))
    client.post("/v2/models/late/versions/1/infer", json=body)
    client.get("/v2/models/late/versions/1/infer")
    metrics = client.get("/metrics").text
    assert 'route="/v2/models/{name}/versions/{version}/infer",status="200"} 1.0' in metrics
    assert 'route="/v2/models/{name}/versions/{version}/infer",status="405"} 1.0' in metrics


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(0, 300)))
def test_random_bytes_are_never_a_server_error(client: httpx.Client, body: bytes, length: int | None) -> None:
    headers = {"Content-Type": "application/octet-stream"} | ({} if length is None else {LENGTH: str(length)})
    assert 400 <= client.post(INFER, content=body, headers=headers).status_code < 500


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.lists(st.integers(-2, 2**40), max_size=3),
    st.sampled_from(["FP32", "BYTES", "BOOL", "INT64", "x"]),
    st.sampled_from(["delay", "carrier", "distance", "trip", "x"]),
    st.integers(-1, 40),
    st.binary(max_size=30),
)
def test_random_tensors_are_never_a_server_error(
    client: httpx.Client, shape: list[int], datatype: str, name: str, size: int, raw: bytes
) -> None:
    body, headers = binary([(spec(name, shape, datatype, binary_data_size=size), raw)])
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200 or 400 <= answer.status_code < 500


def expect(answer: httpx.Response, status: int, field: str) -> None:
    shape = answer.json()
    assert (answer.status_code, shape["detail"]["field"]) == (status, field), answer.text
    assert isinstance(shape["error"], str)
    assert set(shape) == {"error", "detail", "request_id"}
    assert "SECRET" not in answer.text
