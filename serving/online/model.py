"""Opening what serves: a registered version → verified bundle, warm engine, reader, decoder, scorer.

Used by the server's holder and, for a few rows in a command's own process, by `predict_once`. The clock is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from features.online import open_reader
from features.plan import ReadPlan
from millrace.bundle import open_bundle
from millrace.contract import Contract
from millrace.db import Database, ModelRow
from millrace.engine import Engine, open_engine
from millrace.errors import BundleError, NoChampionError, RequestError
from millrace.keys import public_key
from millrace.prediction_log import PredictionLog
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.online.answers import Answer
from serving.online.bodies import ColumnType
from serving.online.columns import columns_and_needs
from serving.online.decoder import Need, RequestDecoder
from serving.online.scorer import Reader, Scorer

OpenReader = Callable[[ReadPlan, UseCase, Settings], Reader]
"""`features.online.open_reader`, or a fake."""


@dataclass(frozen=True, slots=True)
class Model:
    """One version, ready to answer. `columns` are what a row may hold and `needs` what it must; `seconds` is what one
    row takes the engine."""

    version: int
    digest: str
    contract: Contract
    columns: Mapping[str, ColumnType]
    needs: Sequence[Need]
    decoder: RequestDecoder
    score: Scorer
    seconds: float
    reader: Reader | None


def open_model(
    row: ModelRow,
    use_case: UseCase,
    settings: Settings,
    *,
    clock: Callable[[], datetime],
    metrics: Metrics,
    log: PredictionLog | None = None,
    reader_of: OpenReader = open_reader,
) -> Model:
    """Verify, open and warm the bundle of a registered version.

    Raises `BundleError` when it is damaged, not ours, not the one that was registered or another use case's, and
    whatever the reader raises when its views cannot be read.
    """
    contract, engine = _opened(row, use_case, settings)
    plan = ReadPlan.from_dict(contract.read_plan) if contract.read_plan else None
    key = use_case.population.source.key
    columns, needs = columns_and_needs(contract, plan, key)
    reader = reader_of(plan, use_case, settings) if plan else None
    score = Scorer(
        contract=contract,
        engine=engine,
        reader=reader,
        order=_order(contract, plan),
        version=row.version,
        key=key,
        log=log,
        metrics=metrics,
        clock=clock,
        log_full=settings.log_full,
    )
    decoder = RequestDecoder(
        columns, needs, max_rows=settings.request_rows, classes=bool(contract.classes), inputs=contract.names, key=key
    )
    return Model(row.version, row.digest, contract, columns, needs, decoder, score, _warm(contract, engine), reader)


def _opened(row: ModelRow, use_case: UseCase, settings: Settings) -> tuple[Contract, Engine]:
    """The verified bundle's contract and engine, if it is the one that was registered."""
    bundle = open_bundle(Path(row.bundle), public_key=public_key(settings))
    if bundle.digest != row.digest or bundle.contract.use_case != use_case.name:
        raise BundleError(f"The bundle {row.bundle} is not the one that was registered as version {row.version}.")
    return bundle.contract, open_engine(bundle, threads=settings.threads, settings=settings)


def predict_once(
    db: Database,
    use_case: UseCase,
    settings: Settings,
    rows: Sequence[Mapping[str, Any]],
    *,
    at: datetime,
    reader_of: OpenReader = open_reader,
) -> Answer:
    """What the server would answer for these rows at `at`, in this process, with the values used and the probability
    of every class, if the model has classes; nothing is logged.

    Raises `NoChampionError` before there is one and `RequestError` naming the column of a wrong row, or a view that
    refuses to be answered with expired values.
    """
    row = db.champion(use_case.name)
    if row is None:
        raise no_champion(use_case.name)
    model = open_model(row, use_case, settings, clock=lambda: at, metrics=Metrics(), reader_of=reader_of)
    asked: dict[str, Any] = {"rows": rows, "at": at, "features": True}
    body = msgspec.json.encode(asked | {"scores": True} if model.contract.classes else asked)
    (answer,) = model.score([model.decoder.decode(body)])
    if isinstance(answer, RequestError):
        raise answer
    return answer


def no_champion(use_case: str) -> NoChampionError:
    """The error of a use case that has no champion yet."""
    return NoChampionError(f"No model serves {use_case} yet.", todo=f"Type: millrace train {use_case}")


def _order(contract: Contract, plan: ReadPlan | None) -> Sequence[int] | None:
    """Where each input of the contract stands among the plan's features; None when they are in the same order."""
    if plan is None or tuple(plan.features) == contract.names:
        return None
    places = {name: position for position, name in enumerate(plan.features)}
    absent = [name for name in contract.names if name not in places]
    if absent:
        raise BundleError(f"The bundle's read plan does not read {', '.join(absent)}, which its model takes.")
    return [places[name] for name in contract.names]


def _warm(contract: Contract, engine: Engine) -> float:
    """Run one row and a batch, so that no request pays for a first time; returns the seconds of a warm row."""
    empty: list[Any] = [None] * len(contract.inputs)
    one = contract.encode_rows([empty])
    engine.predict(contract.encode_rows([empty] * 64))
    for _ in range(5):
        engine.predict(one)
    started = time.perf_counter()
    engine.predict(one)
    return time.perf_counter() - started
