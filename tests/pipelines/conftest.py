"""A small platform with a first champion, made once a module: its tests walk through its life in their order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.settings import Settings, read_settings
from pipelines import data, models
from pipelines.workspace import Workspace, open_workspace

CASES = Path(__file__).parent / "cases"
START = datetime(2024, 1, 20, tzinfo=UTC)


NETWORK = """

def net(inputs: Any) -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(len(inputs), 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return self.layer(X.nan_to_num(0.0)).squeeze(-1)

    return Net()


network = TorchCandidate(
    "net", net, search={"learning_rate": Real(1e-3, 1e-1, log=True)}, max_epochs=3, batch_size=64, variants=(Int8(),)
)
use_case = replace(use_case, name="taxi_net", candidates=(network,))
"""


@pytest.fixture(scope="session")
def network_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny use case whose candidate is a network with a variant: `taxi_net`."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "taxi_net").mkdir()
    taxi = (CASES / "taxi" / "use_case.py").read_text()
    imports = "from dataclasses import replace\nfrom millrace import Int8, Real, TorchCandidate\n"
    (folder / "taxi_net" / "use_case.py").write_text(taxi.replace("from typing", f"{imports}from typing", 1) + NETWORK)
    return folder


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """An empty platform on which the tiny use case is found by name."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return read_settings()


@pytest.fixture(scope="module")
def champion_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a platform on which the tiny use case was ingested and trained as of START."""
    home = tmp_path_factory.mktemp("champion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        with open_workspace("taxi", home) as ws:
            data.ingest(ws, as_of=START)
            data.materialize(ws, as_of=START)
            done = models.train_and_gate(ws, as_of=START, why="The first one.")
            if not done.outcome.promoted:  # on a busy machine too few calls are measured to know a 99th percentile
                models.promote(ws, 1, as_of=START, override="It is the tests' champion.")
    return home


@pytest.fixture
def ws(champion_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open, and named by the environment."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(champion_home))
    with open_workspace("taxi") as workspace:
        yield workspace
