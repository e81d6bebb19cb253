"""From a request's bytes to checked rows: one strict decoder a model, built once from its contract.

What leaves here needs no further check: JSON without duplicate keys, only columns that the model knows, each of its
type, numbers that fit a float32, arrays of their length, text without NUL, and in every row what its features depend
on, or the features themselves. Errors name the field and never repeat a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from millrace.errors import RequestError
from serving.answer import MANY
from serving.online.bodies import ColumnType, body_type, has_no_more_keys, instant_of, may_have_nul
from serving.online.request import PredictRequest, ScoresRequest
from serving.online.tokens import first_twice, objects
from serving.online.whole_rows import WholeRows

_COUNTED = 100_000
"""Bytes of a body from which on its objects are counted first: fewer bytes hold no rows that take long to decode."""
_PLACE = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[A-Za-z_][A-Za-z0-9_]{0,63})`")
_ABSENT = "Object missing required field `rows`"


@dataclass(frozen=True, slots=True)
class Need:
    """A row must have `column`, or all the features that depend on it: only itself when nothing else does."""

    column: str
    dependents: frozenset[str]


class RequestDecoder:
    """Decodes and checks the bodies of one model's requests; one to a model of `classes` may also ask for all scores.

    `inputs` are the model's, in the contract's order, and `key` the population's columns. A body whose rows all bring
    every input is decoded straight into tuples in that order; whatever else it is, the general decoder says. Clients
    go on as they began, so what the last body was is tried first.
    """

    def __init__(
        self,
        columns: Mapping[str, ColumnType],
        needs: Sequence[Need],
        *,
        max_rows: int,
        classes: bool = False,
        inputs: Sequence[str] = (),
        key: Sequence[str] = (),
    ) -> None:
        self._decoder = msgspec.json.Decoder(body_type(columns, classes))
        self._inputs = frozenset(inputs)
        only = {name: columns[name] for name in inputs}
        self._whole = [WholeRows(each, inputs, key, classes=classes) for each in (only, columns)] if inputs else []
        self._brings_all = bool(inputs)  # whether the rows of the last body did
        self._classes = classes
        self._needs, self._max_rows = tuple(needs), max_rows
        self._max_tokens = (max_rows + 2) * (2 * len(columns) + 4)
        self._needed = frozenset(need.column for need in needs)

    def decode(self, body: bytes) -> PredictRequest:
        """The request, or `RequestError`: 400 what is not JSON, 413 too many rows, 422 a wrong column or value."""
        if len(body) > _COUNTED and body.count(b"}") > self._max_rows:
            self._check_count(objects(body, tokens=self._max_tokens))
        whole = self._decode_whole(body) if self._brings_all else None
        if whole is not None:
            return whole
        given = self._parse(body)
        rows = self._rows(given)
        self._brings_all = bool(self._inputs and rows) and rows[0].keys() >= self._inputs
        scores = self._classes and given.scores is not UNSET
        keys = 1 + (given.at is not UNSET) + (given.features is not UNSET) + scores + sum(map(len, rows))
        _refuse_duplicates(body, keys)
        if may_have_nul(body):
            _refuse_nul(rows)
        wanted = ScoresRequest if scores and given.scores is True else PredictRequest
        return wanted(len(rows), rows, instant_of(given.at), given.features is True)

    def _decode_whole(self, body: bytes) -> PredictRequest | None:
        for place, decoder in enumerate(self._whole):
            found = decoder.decode(body)
            if found is not None:
                self._check_count(found.count)
                if place:
                    self._whole.reverse()
                return found
        return None

    def check(self, rows: Sequence[Mapping[str, Any]], *, at: Any = None) -> PredictRequest:
        """The request of rows that came some other way than as our JSON, checked as strictly.

        Values are plain; NaN, which tensors and frames have for a missing number, is null; `at` is an ISO time with its
        zone. Raises `RequestError` (413, 422) as `decode` does.
        """
        try:
            given = msgspec.convert({"rows": [_without_nan(row) for row in rows], "at": at}, self._decoder.type)
        except msgspec.ValidationError as error:
            raise _wrong_value(str(error)) from None
        plain = self._rows(given)
        _refuse_nul(plain)
        return PredictRequest(len(plain), plain, instant_of(given.at))

    def _rows(self, given: Any) -> list[dict[str, Any]]:
        self._check_count(len(given.rows))
        rows: list[dict[str, Any]] = msgspec.to_builtins(given.rows, builtin_types=(datetime,))
        for index, row in enumerate(rows):
            if not row.keys() >= self._needed:
                self._check_needs(index, row)
        return rows

    def _check_count(self, count: int) -> None:
        if count > self._max_rows:
            raise RequestError(
                413,
                f"A request has at most {self._max_rows:,} rows.",
                field="rows",
                todo=f"Split it, or {MANY}",
            )

    def _parse(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _wrong_value(str(error)) from None
        except (ValueError, RecursionError):  # malformed, cut off, not UTF-8, lone surrogates, NaN, nested without end
            raise RequestError(400, "The body is not JSON.", field="body") from None

    def _check_needs(self, index: int, row: Mapping[str, Any]) -> None:
        for need in self._needs:
            if need.column not in row and not row.keys() >= need.dependents:
                raise RequestError(
                    422,
                    f"A row needs {need.column} (or null).",
                    field=f"rows[{index}].{need.column}",
                    todo=_instead(need),
                )


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in row.items()}  # only NaN differs from itself


def _instead(need: Need) -> str:
    others = sorted(need.dependents - {need.column})
    return f"Or give all that depends on it: {', '.join(others)}." if others else ""


def _refuse_duplicates(body: bytes, keys: int) -> None:
    """Raise `RequestError` (422) for a key that is given twice in a body of which `keys` were decoded."""
    if has_no_more_keys(body, keys):
        return
    colons = body.count(b":")
    if colons > 4 * keys + 100:  # more than times have
        twice = first_twice(body)
        if twice:
            raise RequestError(422, "A column is given twice.", field=twice)
        return

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]  # each is a known column: the decoder refused all others
            raise RequestError(422, "A column is given twice.", field=next(n for n in names if names.count(n) > 1))
        return found

    json.loads(body, object_pairs_hook=unique)


def _refuse_nul(rows: Sequence[Mapping[str, Any]]) -> None:
    for index, row in enumerate(rows):
        for name, value in row.items():
            if isinstance(value, str) and "\0" in value:
                raise RequestError(422, "A text must not have a NUL character.", field=f"rows[{index}].{name}")


def _wrong_value(message: str) -> RequestError:
    """The decoder's message with its place taken out as the field; it names types and limits, never a value."""
    found = _PLACE.search(message)
    field = found["place"] if found else ""
    if message.startswith(_ABSENT):
        return RequestError(422, "The body has no rows.", field="rows", todo='Send {"rows": [{…}, …]}.')
    if "unknown field" in message:
        unknown = _UNKNOWN.search(message)
        parts = (field, unknown["name"] if unknown else "")
        return RequestError(
            422,
            "The model has no column of this name.",
            field=".".join(part for part in parts if part),
            todo="See the contract route for the columns it takes.",
        )
    what = _PLACE.sub("", message)
    return RequestError(422, what.rstrip(".") + ".", field=field or "body")
