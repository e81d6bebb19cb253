"""MLflow's scoring protocol as a dialect: what `mlflow models serve` takes as JSON, answered as it answers it.

    {"dataframe_split": {"columns": […], "data": [[…], …]}}    {"dataframe_records": [{…}, …]}
    {"inputs": [{…}, …]} or {"inputs": {"column": […], …}}     {"instances": …}, likewise
    → {"predictions": [{"score": 0.25}, …]}, of a model of classes [{"CLASS": 0.25, …}, …]

The answer is that of `millrace.pyfunc`, row by row. `params` may say `at`, the instant to predict at; as in MLflow,
others that the model does not have are not read. Python's JSON, and so MLflow's client, writes a missing number of a
frame as the bare word NaN: here alone it is null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from millrace.errors import RequestError
from serving.answer import check_type
from serving.online.answers import Answer
from serving.online.champion import Serving
from serving.online.predict import Headers, Reply
from serving.online.request import PredictRequest, ScoresRequest
from serving.protocols.bodies import Scalar, decode, refuse_duplicates, refuse_more_rows

_WORDS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|NaN', re.DOTALL)
"""A text or a NaN outside of texts. A text that does not end reaches to the end, so every byte is looked at once."""
_Cell = Scalar | list[int | float | None]
_Columns = dict[str, list[_Cell]]
_Records = list[dict[str, _Cell]]


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    """A frame as pandas' orient `split` has it."""

    columns: list[str]
    data: list[list[_Cell]]
    index: list[Scalar] | UnsetType | None = UNSET


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request: exactly one of the first four."""

    dataframe_split: _Split | UnsetType = UNSET
    dataframe_records: _Records | UnsetType = UNSET
    instances: _Records | _Columns | UnsetType = UNSET
    inputs: _Records | _Columns | UnsetType = UNSET
    params: dict[str, _Cell] = {}


FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
"""The members of a body that hold rows."""


class MlflowScoring:
    """The dialect of `/invocations`."""

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._decoder = msgspec.json.Decoder(_Body)

    def parse(self, body: bytes, headers: Headers, served: Serving) -> PredictRequest:
        """The rows, of a frame or of columns; a column that a record lacks is absent, as in our own JSON."""
        check_type(headers)
        text, asked = self._decode(body, len(served.model.columns))
        form = _form(asked)
        rows, keys = _rows(getattr(asked, form), form, self._max_rows)
        checked = served.decoder.check(rows, at=asked.params.get("at"))
        refuse_duplicates(text, 1 + keys + (1 + len(asked.params) if asked.params else 0))
        return ScoresRequest(checked.count, checked.rows, checked.at)

    def _decode(self, body: bytes, columns: int) -> tuple[bytes, _Body]:
        """The strict JSON of a body and what it says."""
        try:
            return body, decode(body, self._decoder)
        except RequestError as error:
            if error.status != 400 or b"NaN" not in body:
                raise
        refuse_more_rows(body.count(b"NaN") // columns, self._max_rows, "body")  # at least so many
        text = _WORDS.sub(_null, body)
        return text, decode(text, self._decoder)

    def render(self, answer: Answer, request: PredictRequest, served: Serving) -> Reply:
        """The score of each row or, of a model of classes, those of all classes."""
        rows: Sequence[Any] = answer.predictions
        classed = bool(served.model.contract.classes)
        predictions = [row.scores for row in rows] if classed else [{"score": row.score} for row in rows]
        return msgspec.json.encode({"predictions": predictions}), []


def _null(found: re.Match[bytes]) -> bytes:
    return b"null" if found[0] == b"NaN" else found[0]


def _form(asked: _Body) -> str:
    """The one member that holds rows."""
    given = [form for form in FORMS if getattr(asked, form) is not UNSET]
    if len(given) != 1:
        raise RequestError(422, f"The body must have exactly one of {', '.join(FORMS)}.", field="body")
    return given[0]


def _rows(given: _Split | _Records | _Columns, form: str, limit: int) -> tuple[Sequence[Mapping[str, Any]], int]:
    """The rows and how many keys of JSON they took."""
    if isinstance(given, list):
        refuse_more_rows(len(given), limit, form)
        return given, sum(map(len, given))
    if isinstance(given, dict):
        return _of_columns(given, form, limit), len(given)
    refuse_more_rows(len(given.data), limit, f"{form}.data")
    columns = given.columns
    if len(set(columns)) < len(columns):
        raise RequestError(422, "A column is given twice.", field=f"{form}.columns")
    wrong = next((place for place, row in enumerate(given.data) if len(row) != len(columns)), None)
    if wrong is not None:
        raise RequestError(422, f"A row must have {len(columns)} values, a column each.", field=f"{form}.data[{wrong}]")
    return [dict(zip(columns, row, strict=True)) for row in given.data], 2 + (given.index is not UNSET)


def _of_columns(columns: _Columns, form: str, limit: int) -> list[dict[str, Any]]:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        what = "All columns must have as many values." if lengths else "There is no column."
        raise RequestError(422, what, field=form)
    refuse_more_rows(lengths.pop(), limit, form)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
