"""The short form of a predict body: rows that all bring every input of the model, which is what most clients send.

They become tuples in the model's order without a dictionary in between. This module knows nothing of what is wrong with
a body: whatever it does not take, the general decoder says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from millrace.prediction_log import row_key
from serving.online.bodies import ColumnType, body_type, has_no_more_keys, instant_of, may_have_nul
from serving.online.request import PredictRequest, ScoresRequest


class WholeRows:
    """Decodes the bodies whose rows all bring every input, three times as fast as what takes any row."""

    def __init__(self, columns: Mapping[str, ColumnType], inputs: Sequence[str], key: Sequence[str], *, classes: bool):
        order = [*inputs, *(name for name in columns if name not in inputs)]
        self._decoder = msgspec.json.Decoder(body_type({name: columns[name] for name in order}, classes, len(inputs)))
        self._width, self._classes = len(inputs), classes
        self._bare = len(order) == len(inputs)
        self._key = [order.index(name) for name in key] if set(key) <= set(order) else []

    def decode(self, body: bytes) -> PredictRequest | None:
        """The request, or None when it is another kind of one or no good: the general decoder says what is wrong."""
        try:
            given = self._decoder.decode(body)
        except (ValueError, RecursionError):
            return None
        width, scores = self._width, self._classes and given.scores is not UNSET
        rows = [astuple(row) for row in given.rows]
        keys = 1 + (given.at is not UNSET) + (given.features is not UNSET) + scores + width * len(rows)
        if not self._bare:
            beside = [row[width:] for row in rows]
            keys += sum(len(rest) - rest.count(UNSET) for rest in beside)
        if not has_no_more_keys(body, keys) or may_have_nul(body) or not rows:
            return None
        values = rows if self._bare else [row[:width] for row in rows]
        wanted = ScoresRequest if scores and given.scores is True else PredictRequest
        return wanted(len(rows), (), instant_of(given.at), given.features is True, values, self._keys(rows))

    def _keys(self, rows: Sequence[Sequence[Any]]) -> Sequence[str]:
        """Each row's key in the population, empty where it does not bring all of it; nothing when none does."""
        if not self._key:
            return ()
        found = [[row[place] for place in self._key] for row in rows]
        if all(UNSET in key for key in found):
            return ()
        return ["" if UNSET in key else row_key(key) for key in found]
