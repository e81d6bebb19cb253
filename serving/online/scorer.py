"""One batch through one model: read features, encode, predict, log, answer.

Everything a batch needs is here and nothing of HTTP is. The rows come checked (`serving.online.decoder`); the answers
leave only after the prediction log has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, repeat
from operator import itemgetter
from time import perf_counter
from typing import Any, Literal, Protocol

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
from serving.online.stages import Stages

_NO_FLAGS, _NOTHINGS = repeat(()), repeat(None)
"""For as many rows as there are: an iterator of one thing has no end and no state."""


class FeatureRows(Protocol):
    """What a reader gives: `values` a row in the plan's feature order, and the views that had none for it.

    `stale` names, for the few rows that have them, the views whose stored values had expired, `down` those that the
    store did not answer for; `refused` those of both that must not be answered without.
    """

    @property
    def values(self) -> Sequence[Sequence[Any]]: ...
    @property
    def missing(self) -> Sequence[Sequence[str]]: ...
    @property
    def stale(self) -> Mapping[int, Sequence[str]]: ...
    @property
    def down(self) -> Mapping[int, Sequence[str]]: ...
    @property
    def refused(self) -> Mapping[int, Sequence[str]]: ...


class Reader(Protocol):
    """Reads features of rows by their entity keys: `features.online.Reader`, or a fake."""

    def read(self, rows: Sequence[Mapping[str, Any]], *, at: datetime) -> FeatureRows:
        """Features as of `at`; values that a row gives itself are kept."""

    @property
    def is_down(self) -> bool:
        """Whether the store has failed and not answered again."""


@dataclass(slots=True)
class _Batch:
    """The rows of a batch, each with its features in the contract's order, and what its views lacked.

    The gaps are told for the few rows that have some, by the row's place in the batch.
    """

    values: list[Sequence[Any]] = field(default_factory=list)
    missing: dict[int, Sequence[str]] = field(default_factory=dict)
    stale: dict[int, Sequence[str]] = field(default_factory=dict)
    down: dict[int, Sequence[str]] = field(default_factory=dict)
    refused: dict[int, Sequence[str]] = field(default_factory=dict)

    def flags(self) -> dict[int, list[str]]:
        """Of the rows that have some: `missing:VIEW` for each view that had nothing for the row's entity, `stale:VIEW`
        for each that had only expired values, `default:VIEW` for each whose store did not answer."""
        found: dict[int, list[str]] = {}
        for kind, gaps in (("missing", self.missing), ("stale", self.stale), ("default", self.down)):
            for place, views in gaps.items():
                found.setdefault(place, []).extend(f"{kind}:{view}" for view in views)
        return found


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
        log_full: Literal["refuse", "serve"] = "refuse",
    ) -> None:
        """`order` says at which position of the reader's values each input of the contract is (None: the same order);
        `key` are the columns that identify a row of the population; `log_full` is what becomes of predictions that the
        log cannot take."""
        self._contract, self._engine, self._reader, self._log = contract, engine, reader, log
        self._version, self._clock = version, clock
        self._order, self._key = order, tuple(key)
        self._names, self._classes = contract.names, contract.classes
        self._given = _tuple_getter(self._names)
        self._row_key = _tuple_getter(self._key)
        self._kinds: dict[str, Kind] = {spec.name: log_kind(spec) for spec in contract.inputs}
        self._use_case, version_label = contract.use_case, str(version)
        self._batch_rows = metrics.batch_rows.labels(self._use_case)
        self._predictions = metrics.predictions.labels(self._use_case, version_label)
        self._missing, self._stale, self._down = metrics.missing_views, metrics.stale_rows, metrics.default_rows
        self._serves_unlogged, self._unlogged = log_full == "serve", metrics.unlogged.labels(self._use_case)

    def __call__(self, requests: Sequence[PredictRequest]) -> list[Answer | RequestError]:
        """One answer a request, in order: an error in its place is that request's alone.

        Raises whatever kept the batch from being scored and logged as a whole.
        """
        now, began = self._clock(), perf_counter()
        batch = self._fill(requests, now)
        if batch.refused:
            refused = self._refused(requests, batch)
            rest = iter(self([request for place, request in enumerate(requests) if place not in refused]))
            return [refused.get(place) or next(rest) for place in range(len(requests))]
        read = perf_counter()
        scores, classed = self._predict(batch.values) if batch.values else ([], None)
        predicted = perf_counter()
        drawn = os.urandom(16 * len(scores)).hex()
        ids = [drawn[start : start + 32] for start in range(0, len(drawn), 32)]
        flags = batch.flags()
        if ids and self._log is not None:
            rows = self._logged(requests, batch, flags, scores, ids, now)
            try:
                self._log.append(self._kinds, rows, classed.labels if classed else ())
            except OSError as error:
                self._bear(error, flags, len(ids))
        logged = perf_counter()
        answers = self._answers(requests, batch, flags, scores, classed, ids)
        stages = Stages(began, len(ids), read - began, predicted - read, logged - predicted, perf_counter() - logged)
        for request in requests:
            request.stages = stages
        return answers

    def _fill(self, requests: Sequence[PredictRequest], now: datetime) -> _Batch:
        """Every row with its features; rows that give all of them cost no read, the others one read an instant."""
        batch = _Batch()
        asked: dict[datetime, list[tuple[int, Mapping[str, Any]]]] = {}
        for request in requests:
            if request.values is not None:
                batch.values += request.values
                continue
            for row in request.rows:
                try:
                    batch.values.append(self._given(row))
                except KeyError:
                    asked.setdefault(request.at or now, []).append((len(batch.values), row))
                    batch.values.append(())
        for at, rows in asked.items():
            found = self._read([row for _, row in rows], at)
            for place, (position, _) in enumerate(rows):
                batch.values[position] = self._ordered(found.values[place])
                if found.missing[place]:
                    batch.missing[position] = found.missing[place]
            batch.stale |= {rows[place][0]: views for place, views in found.stale.items()}
            batch.down |= {rows[place][0]: views for place, views in found.down.items()}
            batch.refused |= {rows[place][0]: views for place, views in found.refused.items()}
        return batch

    def _read(self, rows: Sequence[Mapping[str, Any]], at: datetime) -> FeatureRows:
        if self._reader is None:
            raise MillraceError("The model has no read plan, so a row must give all its features.")
        return self._reader.read(rows, at=at)

    def _refused(self, requests: Sequence[PredictRequest], batch: _Batch) -> dict[int, Answer | RequestError]:
        """The requests that a view refuses to answer, by their places: of each the error of its first such row."""
        found: dict[int, Answer | RequestError] = {}
        position = 0
        for place, request in enumerate(requests):
            for number in range(request.count):
                for view in batch.refused.get(position + number, ()):
                    is_down = view in batch.down.get(position + number, ())
                    (self._down if is_down else self._stale).labels(self._use_case, view).inc()
                    found.setdefault(place, _unread(view, number) if is_down else _too_old(view, number))
            position += request.count
        return found

    def _ordered(self, values: Sequence[Any]) -> Sequence[Any]:
        return values if self._order is None else [values[position] for position in self._order]

    def _predict(self, values: Sequence[Sequence[Any]]) -> tuple[list[float], Classed | None]:
        """The score of each row, and its class when the model has classes."""
        scores: NDArray[np.float64] = self._engine.predict(self._contract.encode_rows(values))
        if not np.isfinite(scores).all():
            raise RequestError(422, "The model gives no number for a row of this request.", field="rows")
        self._batch_rows.observe(len(values))
        self._predictions.inc(len(values))
        if self._classes:
            classed = Classed(self._classes, scores)
            return classed.best, classed
        return scores.tolist(), None

    def _logged(
        self,
        requests: Sequence[PredictRequest],
        batch: _Batch,
        flags: Mapping[int, Sequence[str]],
        scores: Sequence[float],
        ids: Sequence[str],
        now: datetime,
    ) -> list[Prediction]:
        """The batch as rows of the log."""
        served, version, values = microseconds(now), self._version, batch.values
        rows: list[Prediction] = []
        for request in requests:
            at = served if request.at is None else microseconds(request.at)
            keys = request.keys or ([self._key_of(row) for row in request.rows] if self._key else ())
            for key in keys or repeat("", request.count):
                place = len(rows)
                told = ",".join(flags[place]) if place in flags else ""
                rows.append(Prediction(ids[place], version, served, at, key, told, scores[place], values[place]))
        return rows

    def _bear(self, error: OSError, flags: dict[int, list[str]], rows: int) -> None:
        """The log is full: what is not logged is not answered, unless the operator prefers it answered and flagged."""
        if not self._serves_unlogged:
            raise unrecorded(looked=f"The disk says: {error.strerror}.") from error
        self._unlogged.inc(rows)
        for place in range(rows):
            flags.setdefault(place, []).append("unlogged")

    def _key_of(self, row: Mapping[str, Any]) -> str:
        try:
            return row_key(self._row_key(row))
        except KeyError:
            return ""

    def _answers(
        self,
        requests: Sequence[PredictRequest],
        batch: _Batch,
        flags: Mapping[int, list[str]],
        scores: Sequence[float],
        classed: Classed | None,
        ids: Sequence[str],
    ) -> list[Answer | RequestError]:
        gaps_of = ((self._missing, batch.missing), (self._stale, batch.stale), (self._down, batch.down))
        for metric, gaps in gaps_of:
            for view in chain.from_iterable(gaps.values()):
                metric.labels(self._use_case, view).inc()
        answers: list[Answer | RequestError] = []
        first = 0
        for request in requests:
            end = first + request.count
            told: Iterable[Any] = _NOTHINGS
            if request.features:
                told = [dict(zip(self._names, values, strict=True)) for values in batch.values[first:end]]
            marks = [flags.get(place, ()) for place in range(first, end)] if flags else _NO_FLAGS
            rows = list(map(ScoredRow, ids[first:end], scores[first:end], marks, told))
            everything = classed.rows(rows, start=first, scores=isinstance(request, ScoresRequest)) if classed else rows
            answers.append(Answer(self._use_case, self._version, everything))
            first = end
        return answers


def unrecorded(looked: str = "") -> Overload:
    """The refusal of what the prediction log cannot take: no 5xx, since the server and the model are well."""
    what = "Predictions cannot be recorded at the moment."
    return Overload("log", what, status=429, retry_after=5, looked=looked)


def _too_old(view: str, row: int) -> RequestError:
    return RequestError(
        503,
        f"The feature view {view} has only expired values for row {row}, and its policy is to refuse.",
        field=f"rows[{row}]",
        todo="Send it again once the view is fresh, or give its features in the row.",
    )


def _unread(view: str, row: int) -> RequestError:
    return RequestError(
        503,
        f"The online store does not answer for the feature view {view}, and its policy is to refuse.",
        field=f"rows[{row}]",
        todo="Send it again after the seconds in Retry-After, or give its features in the row.",
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
