"""One batch through one model: read features, encode, predict, log, answer.

Everything a batch needs is here and nothing of HTTP is. The rows come checked (`serving.online.request`); the answers
leave only after the prediction log has them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.contract import Contract
from millrace.engine import Engine
from millrace.errors import MillraceError, RequestError
from millrace.inputs import InputSpec
from millrace.prediction_log import Kind, Prediction, PredictionLog, microseconds, row_key
from millrace.telemetry import Metrics
from serving.online.answers import Answer, Classed, ScoredRow
from serving.online.batcher import Overload
from serving.online.request import PredictRequest, ScoresRequest

_logger = logging.getLogger(__name__)


class FeatureRows(Protocol):
    """What a reader gives: `values` a row in the plan's feature order, and the views that had none for it.

    `stale` names, for the few rows that have them, the views whose stored values had expired; `refused` those of them
    that must not be answered without.
    """

    @property
    def values(self) -> Sequence[Sequence[Any]]: ...
    @property
    def missing(self) -> Sequence[Sequence[str]]: ...
    @property
    def stale(self) -> Mapping[int, Sequence[str]]: ...
    @property
    def refused(self) -> Mapping[int, Sequence[str]]: ...


class Reader(Protocol):
    """Reads features of rows by their entity keys: `features.online.Reader`, or a fake."""

    def read(self, rows: Sequence[Mapping[str, Any]], *, at: datetime) -> FeatureRows:
        """Features as of `at`; values that a row gives itself are kept."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """A row with its features, in the contract's order, and the names of the views that had none, only expired ones,
    and of those that refuse to be answered so."""

    values: Sequence[Any]
    missing: Sequence[str] = ()
    stale: Sequence[str] = ()
    refused: Sequence[str] = ()


class Scorer:
    """Scores batches of requests with one opened model. Called from one thread at a time."""

    def __init__(
        self,
        *,
        contract: Contract,
        engine: Engine,
        reader: Reader | None,
        order: Sequence[int] | None,
        version: int,
        key: Sequence[str],
        log: PredictionLog | None,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """`order` says at which position of the reader's values each input of the contract is (None: the same order);
        `key` are the columns that identify a row of the population."""
        self._contract, self._engine, self._reader, self._log = contract, engine, reader, log
        self._version, self._clock = version, clock
        self._order, self._key = order, tuple(key)
        self._names, self._classes = contract.names, contract.classes
        self._given = _tuple_getter(self._names)
        self._row_key = _tuple_getter(self._key)
        self._kinds: dict[str, Kind] = {spec.name: log_kind(spec) for spec in contract.inputs}
        use_case, version_label = contract.use_case, str(version)
        self._batch_rows = metrics.batch_rows.labels(use_case)
        self._predictions = metrics.predictions.labels(use_case, version_label)
        self._missing, self._stale = metrics.missing_views, metrics.stale_rows

    def __call__(self, requests: Sequence[PredictRequest]) -> list[Answer | RequestError]:
        """One answer a request, in order: an error in its place is that request's alone.

        Raises whatever kept the batch from being scored and logged as a whole.
        """
        now = self._clock()
        filled = self._fill(requests, now)
        refused = self._refused(requests, filled)
        if refused:
            rest = iter(self([request for place, request in enumerate(requests) if place not in refused]))
            return [refused.get(place) or next(rest) for place in range(len(requests))]
        scores, classed = self._predict(filled) if filled else ([], None)
        ids = [os.urandom(16).hex() for _ in filled]
        if filled:
            self._record(requests, filled, scores, classed, ids, now)
        return self._answers(requests, filled, scores, classed, ids)

    def _fill(self, requests: Sequence[PredictRequest], now: datetime) -> list[_Filled]:
        """Every row with its features; rows that give all of them cost no read, the others one read an instant."""
        filled: list[_Filled | None] = []
        asked: dict[datetime, list[tuple[int, Mapping[str, Any]]]] = {}
        for request in requests:
            for row in request.rows:
                try:
                    filled.append(_Filled(self._given(row)))
                except KeyError:
                    asked.setdefault(request.at or now, []).append((len(filled), row))
                    filled.append(None)
        for at, rows in asked.items():
            found = self._read([row for _, row in rows], at)
            stale, refused = found.stale, found.refused
            for place, (position, _) in enumerate(rows):
                values, missing = self._ordered(found.values[place]), found.missing[place]
                filled[position] = _Filled(values, missing, stale.get(place, ()), refused.get(place, ()))
        return [row for row in filled if row is not None]

    def _read(self, rows: Sequence[Mapping[str, Any]], at: datetime) -> FeatureRows:
        if self._reader is None:
            raise MillraceError("The model has no read plan, so a row must give all its features.")
        return self._reader.read(rows, at=at)

    def _refused(
        self, requests: Sequence[PredictRequest], filled: Sequence[_Filled]
    ) -> dict[int, Answer | RequestError]:
        """The requests that a view refuses to answer, by their places: of each the error of its first such row."""
        found: dict[int, Answer | RequestError] = {}
        if not any(row.refused for row in filled):
            return found
        rows = iter(filled)
        for place, request in enumerate(requests):
            for number, row in enumerate(islice(rows, len(request.rows))):
                for view in row.refused:
                    self._stale.labels(self._contract.use_case, view).inc()
                    found.setdefault(place, _too_old(view, number))
        return found

    def _ordered(self, values: Sequence[Any]) -> Sequence[Any]:
        return values if self._order is None else [values[position] for position in self._order]

    def _predict(self, filled: Sequence[_Filled]) -> tuple[list[float], Classed | None]:
        """The score of each row, and its class when the model has classes."""
        scores: NDArray[np.float64] = self._engine.predict(self._contract.encode_rows([row.values for row in filled]))
        if not np.isfinite(scores).all():
            raise RequestError(422, "The model gives no number for a row of this request.", field="rows")
        self._batch_rows.observe(len(filled))
        self._predictions.inc(len(filled))
        if self._classes:
            classed = Classed(self._classes, scores)
            return classed.best, classed
        return scores.tolist(), None

    def _record(
        self,
        requests: Sequence[PredictRequest],
        filled: Sequence[_Filled],
        scores: Sequence[float],
        classed: Classed | None,
        ids: Sequence[str],
        now: datetime,
    ) -> None:
        if self._log is None:
            return
        served = microseconds(now)
        rows, position = [], 0
        for request in requests:
            at = served if request.at is None else microseconds(request.at)
            for row in request.rows:
                one = filled[position]
                rows.append(
                    Prediction(
                        ids[position], self._version, served, at, self._key_of(row), ",".join(flags_of(one)),
                        scores[position], list(one.values),
                    )
                )  # fmt: skip
                position += 1
        try:
            self._log.append(self._kinds, rows, classed.labels if classed else ())
        except OSError as error:  # a full disk: what is not logged is not answered
            _logger.error("the prediction log cannot be written: %s", error.strerror)
            raise Overload("log", "Predictions cannot be recorded at the moment.") from error

    def _key_of(self, row: Mapping[str, Any]) -> str:
        try:
            return row_key(self._row_key(row))
        except KeyError:
            return ""

    def _answers(
        self,
        requests: Sequence[PredictRequest],
        filled: Sequence[_Filled],
        scores: Sequence[float],
        classed: Classed | None,
        ids: Sequence[str],
    ) -> list[Answer | RequestError]:
        answers, position = list[Answer | RequestError](), 0
        for request in requests:
            rows, first = [], position
            for _ in request.rows:
                one = filled[position]
                features = dict(zip(self._names, one.values, strict=True)) if request.features else None
                rows.append(ScoredRow(ids[position], scores[position], flags_of(one), features))
                for view in one.missing:
                    self._missing.labels(self._contract.use_case, view).inc()
                for view in one.stale:
                    self._stale.labels(self._contract.use_case, view).inc()
                position += 1
            told = classed.rows(rows, start=first, scores=isinstance(request, ScoresRequest)) if classed else rows
            answers.append(Answer(self._contract.use_case, self._version, told))
        return answers


def flags_of(row: _Filled) -> list[str]:
    """A row's flags: `missing:VIEW` for each view that had nothing for its entity, `stale:VIEW` for each that had only
    expired values."""
    if not row.missing and not row.stale:
        return []
    return [f"missing:{view}" for view in row.missing] + [f"stale:{view}" for view in row.stale]


def _too_old(view: str, row: int) -> RequestError:
    return RequestError(
        503,
        f"The feature view {view} has only expired values for row {row}, and its policy is to refuse.",
        field=f"rows[{row}]",
        todo="Send it again once the view is fresh, or give its features in the row.",
    )


def log_kind(spec: InputSpec) -> Kind:
    """How the prediction log stores an input: booleans are numbers there, as they are in a frame's log."""
    if spec.size > 1:
        return "numbers"
    return "text" if spec.kind == "categorical" and spec.categories != ("false", "true") else "number"


def _tuple_getter(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """The values of these columns of a row; `KeyError` when one is absent."""
    if not names:
        return lambda row: ()
    if len(names) == 1:
        return lambda row: (row[names[0]],)
    return itemgetter(*names)
