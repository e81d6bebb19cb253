"""A tiny signed model, a use case of two feature views, a reader without a store, and the application around them."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from features.online import FeatureRows
from features.plan import FeaturePlan, InputPlan, OnDemandPlan, ReadPlan, ViewPlan
from features.views import Stale
from millrace.bundle import Contract, InputSpec, write_bundle
from millrace.db import Database, ModelRow
from millrace.errors import FeatureError
from millrace.keys import signing_key
from millrace.loader import load_use_case
from millrace.prediction_log import PredictionLog, log_folder
from millrace.settings import Settings, read_settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.app import create_app
from serving.guard import Guard
from serving.keys import api_key
from serving.online.champion import Holder
from serving.run import Server

NOW = datetime(2013, 4, 1, 12, tzinfo=UTC)
NAME = "late"


def onnx_model(weights: Sequence[float]) -> bytes:
    """sigmoid(X @ weights), a missing value counting as 0."""
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("W", TensorProto.FLOAT, [len(weights), 1], weights)
    last = helper.make_tensor("last", TensorProto.INT64, [1], [1])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "X"], ["filled"]),
        helper.make_node("MatMul", ["filled", "W"], ["product"]),
        helper.make_node("Squeeze", ["product", "last"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(weights)])
    p = helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])
    graph = helper.make_graph(nodes, "logistic", [x], [p], [tensor, last, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


PLAN = ReadPlan(
    use_case=NAME,
    service="late",
    views=(
        ViewPlan(
            "carrier_view", "carrier_view.0", ("carrier",), ("String",), (FeaturePlan("delay", "Float64", 0),), None
        ),
    ),
    on_demand=(
        OnDemandPlan(
            "hour_view", "hour", (InputPlan("distance", "Float64"),), (), (FeaturePlan("far", "Float64", -1),)
        ),
    ),
    features=("delay", "far"),
)
CONTRACT = Contract(
    use_case=NAME,
    question="Late?",
    candidate="logistic",
    engine="onnx",
    inputs=(InputSpec("delay", "numeric", low=-1, high=1), InputSpec("far", "numeric", low=0, high=1)),
    trained_as_of=NOW,
    read_plan=PLAN.to_dict(),
)


@dataclass
class FakeReader:
    """Knows the carriers in `delays`; `far` is the row's distance / 1,000. `broken` makes every read fail, `is_down`
    says that the store is not even asked.

    Of the carriers in `expired` it has old values only, which a policy says what to do with.
    """

    delays: Mapping[str, float] = field(default_factory=lambda: {"UA": 0.5, "DL": -0.25})
    expired: Mapping[str, Stale] = field(default_factory=dict)
    broken: bool = False
    is_down: bool = False
    reads: list[tuple[int, datetime]] = field(default_factory=list)

    def read(self, rows: Sequence[Mapping[str, Any]], *, at: datetime) -> FeatureRows:
        if self.broken:
            raise FeatureError("The online store does not answer.")
        self.reads.append((len(rows), at))
        values, missing = [], []
        policies = {place: self.expired.get(row.get("carrier") or "") for place, row in enumerate(rows)}
        for row in rows:
            carrier = row.get("carrier")
            delay = row["delay"] if "delay" in row else self.delays.get(carrier or "")
            far = row["far"] if "far" in row else None if row["distance"] is None else row["distance"] / 1_000
            values.append([delay, far])
            missing.append(("carrier_view",) if delay is None and carrier not in self.expired else ())
        stale = {place: ["carrier_view"] for place, policy in policies.items() if policy}
        refused = {place: ["carrier_view"] for place, policy in policies.items() if policy == "refuse"}
        return FeatureRows(values, missing, stale, refused=refused)


def late_use_case() -> UseCase:
    """The use case in `cases/late`."""
    return load_use_case(str(Path(__file__).parent / "cases" / NAME), read_settings())


@pytest.fixture
def use_case() -> UseCase:
    """`late_use_case`."""
    return late_use_case()


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database at the newest migration, to be copied: migrating takes longer than most tests here."""
    home = tmp_path_factory.mktemp("migrated")
    Database.open(read_settings(home=home)).close()
    return home / "millrace.db"


@pytest.fixture
def db(settings: Settings, migrated: Path) -> Iterator[Database]:
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(migrated, settings.home / "millrace.db")
    db = Database.open(settings)
    yield db
    db.close()


Promote = Callable[..., ModelRow]


@pytest.fixture
def promote(settings: Settings, db: Database) -> Promote:
    """See `promoter`."""
    return promoter(settings, db)


def promoter(settings: Settings, db: Database) -> Promote:
    """Write a signed bundle of sigmoid(delay · w₀ + far · w₁), register it and make it champion."""

    def act(
        version: int = 1,
        weights: Sequence[float] = (1.0, -1.0),
        contract: Contract = CONTRACT,
        verdict: dict[str, Any] | None = None,
    ) -> ModelRow:
        names = list(contract.names)
        reference = pl.DataFrame({name: [0.0] for name in names} | {"score": [0.5], "label": [1]})
        folder = settings.bundles / NAME / str(version)
        bundle = write_bundle(
            folder, contract=contract, model=onnx_model(weights), reference=reference, key=signing_key(settings)
        )
        row = ModelRow(
            NAME, version, "logistic", "run", str(folder), bundle.digest, NOW, NOW, "challenger", verdict=verdict or {}
        )
        db.add_model(row)
        db.set_champion(NAME, version, as_of=NOW, reason="It passed its budget.")
        return row

    return act


@pytest.fixture
def app(settings: Settings, use_case: UseCase, reader: FakeReader, promote: Promote) -> Guard:
    """The application with version 1 promoted; the clock stands still at `NOW`."""
    promote()
    return create_app(settings, [use_case], clock=lambda: NOW, reader_of=lambda *_: reader)


@contextmanager
def client_of(app: Guard, settings: Settings, *, key: bool = True) -> Iterator[httpx.Client]:
    """The application on a free port of loopback, and a client of it, with the key or without."""
    headers = {"X-API-Key": api_key(settings)} if key else {}
    server = Server(app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=base, headers=headers, timeout=30) as client:
            _await(lambda: server.started or not thread.is_alive())
            yield client
        server.should_exit = True
        thread.join()


def _await(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


@pytest.fixture
def client(app: Guard, settings: Settings) -> Iterator[httpx.Client]:
    """A client of the started application, with the key."""
    with client_of(app, settings) as client:
        yield client


@pytest.fixture
def stranger(client: httpx.Client) -> Iterator[httpx.Client]:
    """A client of the same server without the key."""
    with httpx.Client(base_url=client.base_url, timeout=30) as stranger:
        yield stranger


@pytest.fixture
def segments(settings: Settings) -> Path:
    """Where the prediction log's segments lie."""
    return settings.home.absolute() / "predictions" / NAME


def holder_of(use_case: UseCase, settings: Settings, db: Database, reader: FakeReader) -> Holder:
    """A holder that reads features from `reader`."""
    return Holder(
        use_case,
        settings,
        db,
        metrics=Metrics(),
        clock=lambda: NOW,
        log=PredictionLog(log_folder(settings, NAME)),
        reader_of=lambda *_: reader,
    )
