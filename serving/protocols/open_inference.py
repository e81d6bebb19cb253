"""The Open Inference Protocol's `infer` as a dialect: tensors in JSON or as raw bytes in, tensors out.

    body      {"id", "inputs": [{"name", "shape", "datatype", "data"}], "outputs": [{"name"}], "parameters"}
    binary    Inference-Header-Content-Length says where that JSON ends; the raw data of each input that has a parameter
              `binary_data_size` follows it, in order. The answer has the same form for every output with the parameter
              `binary_data`, or for all with the request's `binary_data_output`.

The request's parameter `at` is the instant to predict at. Other parameters are not read, as the protocol has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from millrace.contract import Contract
from millrace.errors import RequestError
from serving.answer import check_type
from serving.online.answers import Answer
from serving.online.champion import Serving
from serving.online.predict import Headers, Reply
from serving.online.request import PredictRequest, ScoresRequest
from serving.protocols.bodies import Scalar, decode, refuse_duplicates
from serving.protocols.metadata import Output, outputs_of
from serving.protocols.tensors import parameter_keys, read_rows, to_bytes

_JSON_LENGTH = b"inference-header-content-length"
_RAW = b"application/octet-stream"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REFUSED = frozenset({"classification", "shared_memory_region"})


class _Wanted(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Scalar] = {}


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of a request."""

    inputs: list[msgspec.Raw]
    id: str | None = None
    outputs: list[_Wanted] | UnsetType = UNSET
    parameters: dict[str, Scalar] = {}


@dataclass(slots=True, eq=False, kw_only=True)
class InferRequest(ScoresRequest):
    """A request that also says which outputs it wants, each as raw bytes or not, and the `id` to repeat, if any."""

    id: str
    outputs: Sequence[tuple[Output, bool]]


class OpenInference:
    """The dialect; with a `version`, of that version only."""

    def __init__(self, *, max_rows: int, version: str = "") -> None:
        self._max_rows, self._version = max_rows, version
        self._decoder = msgspec.json.Decoder(_Body)

    def parse(self, body: bytes, headers: Headers, served: Serving) -> InferRequest:
        """The rows whose columns are the inputs; see `tensors` for what is refused."""
        if self._version:
            check_version(self._version, served)
        text, raw = _split(body, headers)
        asked = decode(text, self._decoder)
        outputs = _outputs(asked, served.model.contract)
        inputs = [bytes(one) for one in asked.inputs]
        rows, keys = read_rows(inputs, raw, served.model.columns, max_rows=self._max_rows)
        checked = served.decoder.check(rows, at=asked.parameters.get("at"))
        refuse_duplicates(text, keys + _keys(asked))  # last: of what is wrong otherwise nothing is read again
        token = asked.id if asked.id and _ID.fullmatch(asked.id) else ""
        return InferRequest(checked.count, checked.rows, checked.at, id=token, outputs=outputs)

    def render(self, answer: Answer, request: PredictRequest, served: Serving) -> Reply:
        """The outputs that were asked for, in that order."""
        asked = cast(InferRequest, request)  # what `parse` made
        told, raw = list[dict[str, Any]](), list[bytes]()
        for output, binary in asked.outputs:
            values = _values(output, answer, served.model.contract.classes)
            one: dict[str, Any] = {"name": output.name, "datatype": output.datatype}
            one["shape"] = output.shape(len(answer.predictions))
            if binary:
                raw.append(to_bytes(output.datatype, values))
                one["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                one["data"] = values
            told.append(one)
        about = {"model_name": answer.use_case, "model_version": str(answer.version)}
        text = msgspec.json.encode(about | ({"id": asked.id} if asked.id else {}) | {"outputs": told})
        if not raw:
            return text, []
        return b"".join([text, *raw]), [(b"content-type", _RAW), (_JSON_LENGTH, str(len(text)).encode())]


def check_version(version: str, served: Serving) -> None:
    """Raise `RequestError` (404) unless this is the version that serves."""
    if version != str(served.version):
        what = f"This version is not served; version {served.version} is."
        raise RequestError(404, what, field="version", todo="Ask for it, or leave the version out of the address.")


def _split(body: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """The JSON of a body and the raw data after it."""
    length = headers.get(_JSON_LENGTH)
    raw = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == _RAW
    check_type({**headers, b"content-type": b"application/json"} if raw and length is not None else headers)
    if length is None:
        return body, b""
    if not length.isdigit() or len(length) > 18 or int(length) > len(body):
        what = "This header must be the bytes of the JSON that the body begins with."
        raise RequestError(400, what, field="Inference-Header-Content-Length")
    return body[: int(length)], body[int(length) :]


def _keys(asked: _Body) -> int:
    """How many keys the JSON has at least, beside those of its inputs."""
    wanted: Sequence[_Wanted] = asked.outputs if isinstance(asked.outputs, list) else ()
    keys = 1 + (asked.id is not None) + (asked.outputs is not UNSET) + parameter_keys(asked.parameters)
    return keys + sum(1 + parameter_keys(one.parameters) for one in wanted)


def _outputs(asked: _Body, contract: Contract) -> list[tuple[Output, bool]]:
    """The outputs that are asked for, or all, and whether each is raw."""
    known = outputs_of(contract)
    binary = _flag(asked.parameters, "binary_data_output", False, "parameters")
    if not isinstance(asked.outputs, list) or not asked.outputs:
        return [(output, binary) for output in known.values()]
    found: dict[str, tuple[Output, bool]] = {}
    for place, one in enumerate(asked.outputs):
        where = f"outputs[{place}]"
        if one.name not in known or one.name in found:
            what = "The model has no output of this name." if one.name not in known else "This output is asked twice."
            raise RequestError(422, what, field=f"{where}.name", todo=f"Its outputs are {', '.join(known)}.")
        if _REFUSED & one.parameters.keys():
            what = "Outputs are answered as they are: without classification or shared memory."
            raise RequestError(422, what, field=f"{where}.parameters")
        found[one.name] = known[one.name], _flag(one.parameters, "binary_data", binary, f"{where}.parameters")
    return list(found.values())


def _flag(parameters: Mapping[str, Any], name: str, default: bool, where: str) -> bool:
    given = parameters.get(name, default)
    if not isinstance(given, bool):
        raise RequestError(422, "This parameter must be true or false.", field=f"{where}.{name}")
    return given


def _values(output: Output, answer: Answer, classes: Sequence[str]) -> list[Any]:
    """An output's values, flat."""
    rows: Sequence[Any] = answer.predictions
    if output.name == "flags":
        return [",".join(row.flags) for row in rows]
    if output.name == "scores":
        return [row.scores[name] for row in rows for name in classes]
    return [getattr(row, output.name) for row in rows]
