"""What `benchmarks.serving` asks for: the flights' gradient boosting, trained once on three months, and rows for it.

Prepared in `.millrace/bench/serving/home` and taken again when it is there. Every request knows the scores that its
answer must have, computed here by the model alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import FOLDER
from millrace.bundle import open_bundle
from millrace.engine import open_engine
from millrace.keys import public_key
from millrace.settings import Settings
from pipelines.workspace import Workspace, open_workspace

HOME = FOLDER / "serving" / "home"
AS_OF = datetime(2013, 4, 1, tzinfo=UTC)
USE_CASE = "flight_delay"
CANDIDATE = "hist_gbm"
ROWS = 500
"""Different rows that are asked for, in turn."""
OURS = r'"score":([0-9.eE+-]+)'
"""Finds the scores in our answers."""


@dataclass(frozen=True)
class Case:
    """Requests, and the scores that each must be answered with as far as `pattern` finds them."""

    path: str
    bodies: list[str]
    scores: list[list[float]] = field(repr=False)
    pattern: str
    rows: int = 1


@dataclass(frozen=True)
class Flight:
    """The model and its rows: `given` hold all features, `keys` only what finds them; `matrix` is what the model sees
    of the given ones with missing numbers as 0, which JSON of other servers can hold."""

    settings: Settings
    model: Path
    names: list[str]
    given: list[dict[str, Any]]
    given_scores: list[float]
    keys: list[dict[str, Any]]
    keys_scores: list[float]
    matrix: list[list[float]]
    matrix_scores: list[float]

    def ours(self, rows: int = 1) -> Case:
        """Millrace's own JSON with all features given."""
        return self._native(self.given, self.given_scores, rows, {})

    def by_keys(self) -> Case:
        """One row found by its entity keys, as of the moment up to which there are features."""
        return self._native(self.keys, self.keys_scores, 1, {"at": f"{AS_OF:%Y-%m-%dT%H:%M:%SZ}"})

    def _native(self, rows: list[dict[str, Any]], scores: list[float], size: int, beside: dict[str, Any]) -> Case:
        bodies = [compact({"rows": part} | beside) for part in parts(rows, size)]
        return Case(f"/v1/{USE_CASE}/predict", bodies, parts(scores, size), OURS, size)


def compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


def parts(values: list[Any], size: int) -> list[list[Any]]:
    """The values in lists of `size`."""
    return [values[start : start + size] for start in range(0, len(values) - size + 1, size)]


def prepared() -> Flight:
    """The flights' model and rows; trains it first (two minutes) when it is not there."""
    with open_workspace(USE_CASE, HOME) as ws:
        row = ws.db.champion(USE_CASE)
        if row is None or row.candidate != CANDIDATE:
            print(f"Training {CANDIDATE} on three months of flights in {HOME}, once …")
            train(ws)
        return described(ws)


def train(ws: Workspace) -> None:
    """Three months of rows, features and candidates; the gradient boosting serves, whichever won."""
    from pipelines.data import ingest, materialize
    from pipelines.models import promote, train_and_gate

    ingest(ws, as_of=AS_OF)
    materialize(ws, as_of=AS_OF)
    train_and_gate(ws, as_of=AS_OF)
    champion = ws.db.champion(USE_CASE)
    if champion is None or champion.candidate != CANDIDATE:
        (row,) = (one for one in ws.db.models(USE_CASE) if one.candidate == CANDIDATE)
        promote(ws, row.version, as_of=AS_OF, override="What benchmarks/serving.py measures.")


def described(ws: Workspace) -> Flight:
    """The champion, rows of its reference sample and the last flights of the schedule, all with their scores."""
    row = ws.db.champion(USE_CASE)
    assert row is not None
    bundle = open_bundle(Path(row.bundle), public_key=public_key(ws.settings))
    names, engine = list(bundle.contract.names), open_engine(bundle)
    given = bundle.reference().select(names).head(ROWS).to_dicts()
    encoded = bundle.contract.encode_rows([list(one.values()) for one in given])
    matrix = np.nan_to_num(encoded)
    keys = due_flights(ws)
    return Flight(
        settings=ws.settings,
        model=Path(row.bundle) / "model.onnx",
        names=names,
        given=given,
        given_scores=engine.predict(encoded).tolist(),
        keys=keys,
        keys_scores=asked(ws, keys),
        matrix=matrix.tolist(),
        matrix_scores=engine.predict(matrix).tolist(),
    )


def due_flights(ws: Workspace) -> list[dict[str, Any]]:
    """The last flights of the schedule, as a client asks for them."""
    columns = ("carrier", "flight", "origin", "dest", "tailnum", "flight_id", "block_minutes", "departs")
    frame = ws.lake.scan("raw/schedule").sort("departs", "flight_id").select(columns).tail(ROWS).collect()
    return [row | {"departs": f"{row['departs']:%Y-%m-%dT%H:%M:%SZ}"} for row in frame.to_dicts()]


def asked(ws: Workspace, rows: Sequence[dict[str, Any]]) -> list[float]:
    """What the server would answer for these rows, asked in this process."""
    from serving.online.model import predict_once

    return [one.score for one in predict_once(ws.db, ws.use_case, ws.settings, rows, at=AS_OF).predictions]
