"""From a request's bytes to checked outcomes: one strict decoder a use case, built once from what it declares.

What leaves here needs no further check: JSON without duplicate keys, each label one of the use case's, each prediction
named in exactly one way (its id, or all of the population's key columns), text without NUL, times with their zone that
are not in the future. Errors name the row and the field and never repeat a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from millrace.errors import RequestError
from millrace.outcome_log import Outcome
from millrace.prediction_log import row_key
from millrace.usecase import UseCase
from serving.online.bodies import MAX_TEXT, instant_of

AHEAD = timedelta(minutes=5)
"""How far a label's `known_at` may lie after its arrival: senders' clocks differ."""
OWN = ("label", "prediction_id", "known_at", "at")
"""What a label has beside key columns. A key column of such a name cannot be given, so that labels go by id."""
_BINARY: Any = bool | Annotated[int, Meta(ge=0, le=1)]
_CLASS: Any = Annotated[str, Meta(max_length=MAX_TEXT)] | int
_ID: Any = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
_KEY: Any = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Annotated[str, Meta(max_length=MAX_TEXT)]
_INSTANT: Any = Annotated[datetime, Meta(tz=True)] | None
_PLACE = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")
_NAME = re.compile(r"field `(?P<name>[A-Za-z_][A-Za-z0-9_]{0,63})`")


class LabelDecoder:
    """Decodes and checks the bodies of one use case's label requests."""

    def __init__(self, use_case: UseCase, *, max_rows: int) -> None:
        self._key, self._classes, self._max_rows = key_columns(use_case), use_case.label.classes, max_rows
        self._fields = {name: f"c{place}" for place, name in enumerate(self._key)}  # columns need not be identifiers
        self._decoder = msgspec.json.Decoder(_body_type(self._fields, _CLASS if self._classes else _BINARY))

    def decode(self, body: bytes, *, now: datetime) -> list[Outcome]:
        """The outcomes in their order; `known_at` is `now` where not given.

        Raises `RequestError`: 400 what is not JSON, 413 too many rows, 422 a wrong field or value.
        """
        rows = self._parse(body).labels
        if len(rows) > self._max_rows:
            what = f"A request has at most {self._max_rows:,} labels."
            raise RequestError(413, what, field="labels", todo="Split it.")
        return [self._outcome(row, f"labels[{place}]", now) for place, row in enumerate(rows)]

    def _parse(self, body: bytes) -> Any:
        try:
            given = self._decoder.decode(body)
            json.loads(body, object_pairs_hook=_once)  # the decoder keeps the last of two equal keys silently
        except msgspec.ValidationError as error:
            raise self._wrong_value(str(error)) from None
        except (ValueError, RecursionError):  # malformed, cut off, not UTF-8, lone surrogates, NaN, nested without end
            raise RequestError(400, "The body is not JSON.", field="body") from None
        return given

    def _outcome(self, row: Any, place: str, now: datetime) -> Outcome:
        label, known_at = self._label(row.label, place), instant_of(row.known_at, f"{place}.known_at")
        if known_at is not None and known_at > now + AHEAD:
            raise RequestError(422, "A label must not be known in the future.", field=f"{place}.known_at")
        known = known_at or now
        keys = {name: getattr(row, field) for name, field in self._fields.items()}
        given = [name for name, value in keys.items() if value is not UNSET]
        if row.prediction_id is not UNSET:
            also = given + ["at"] * (row.at not in (UNSET, None))
            if also:
                what = "A label names its prediction by its id or by its row's key, not by both."
                raise RequestError(422, what, field=f"{place}.{also[0]}")
            return Outcome(label, known, prediction_id=_text(row.prediction_id, f"{place}.prediction_id"))
        if len(given) < len(keys) or not keys:
            raise self._unnamed(place, next((name for name in keys if name not in given), "prediction_id"))
        for name, value in keys.items():
            _text(value, f"{place}.{name}")
        named = row_key([keys[name] for name in self._key])
        if not named:
            raise RequestError(422, "A key must not be empty.", field=f"{place}.{self._key[0]}")
        return Outcome(label, known, row_key=named, at=instant_of(row.at, f"{place}.at"))

    def _label(self, given: Any, place: str) -> str:
        """The label as the outcome log keeps it."""
        if not self._classes:
            return str(int(given))
        if str(given) not in self._classes:
            todo = f"They are {', '.join(self._classes[:12])}{', …' if len(self._classes) > 12 else ''}."
            raise RequestError(
                422, "The label must be one of the use case's classes.", field=f"{place}.label", todo=todo
            )
        return str(given)

    def _unnamed(self, place: str, lacking: str) -> RequestError:
        keys = f", or {' and '.join(self._key)}" if self._key else ""
        what = "A label must name its prediction."
        return RequestError(422, what, field=f"{place}.{lacking}", todo=f"Give prediction_id{keys}.")

    def _wrong_value(self, message: str) -> RequestError:
        """The decoder's message with its place taken out as the field; it names types and limits, never a value."""
        found, name = _PLACE.search(message), _NAME.search(message)
        field = ".".join(part for part in (found and found["place"], name and name["name"]) if part)
        if "unknown field" in message:
            todo = f"A label has {', '.join(dict.fromkeys([*OWN, *self._key]))}."
            return RequestError(422, "A label has no field of this name.", field=field or "body", todo=todo)
        if "missing required field" in message:
            what, todo = "A field is missing.", 'Send {"labels": [{"prediction_id": …, "label": …}, …]}.'
            return RequestError(422, what, field=field, todo=todo)
        what = _PLACE.sub("", message)
        return RequestError(422, what.rstrip(".") + ".", field=field or "body")


def key_columns(use_case: UseCase) -> tuple[str, ...]:
    """The columns by which a label can name its row."""
    key = use_case.population.source.key
    return () if set(key) & set(OWN) else key


def _body_type(fields: Mapping[str, str], label: Any) -> Any:
    own: Sequence[Any] = [
        ("label", label),
        ("prediction_id", _ID | UnsetType, UNSET),
        ("known_at", _INSTANT | UnsetType, UNSET),
        ("at", _INSTANT | UnsetType, UNSET),
    ]
    columns = [(field, _KEY | UnsetType, UNSET) for field in fields.values()]
    names = {field: name for name, field in fields.items()}
    row: Any = msgspec.defstruct("Label", [*own, *columns], rename=names, forbid_unknown_fields=True, gc=False)
    return msgspec.defstruct("Labels", [("labels", list[row])], forbid_unknown_fields=True)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]  # each is a known field: the decoder refused all others
        raise RequestError(422, "A field is given twice.", field=next(n for n in names if names.count(n) > 1))
    return found


def _text(value: Any, field: str) -> Any:
    if isinstance(value, str) and "\0" in value:
        raise RequestError(422, "A text must not have a NUL character.", field=field)
    return value
