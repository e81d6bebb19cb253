"""The online store fails under a running server: every answer comes, flagged or refused as the view says, and it heals.

The server and the stores are real: a SQLite file that is removed, locked or damaged, and a Redis of the test's own that
is stopped, killed and started again under load.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.online_store import Entry, entity_key, pack, prefix
from features.plan import ReadPlan
from features.store import online_path, open_rows
from features.views import Down
from millrace.contract import Contract
from millrace.lake import Lake
from millrace.prediction_log import TABLE, log_folder, ship
from millrace.settings import Settings
from millrace.usecase import UseCase
from serving.app import create_app
from serving.online.champion import DEGRADED

from .conftest import CONTRACT, NAME, NOW, PLAN, Promote, client_of

PATH = f"/v1/{NAME}/predict"
ASKED = {"rows": [{"carrier": "UA", "distance": 200}], "features": True}
DEFAULT = ["default:carrier_view"]


def fill(use_case: UseCase, settings: Settings) -> None:
    """UA's delay, as the model's plan reads it."""
    rows = open_rows(use_case, settings)
    rows.write([Entry(entity_key(prefix("carrier_view.0"), ["UA"]), 1, 1, pack([0.5]))])
    rows.close()


@contextmanager
def serving(use_case: UseCase, settings: Settings) -> Iterator[httpx.Client]:
    """The application on the settings' own online store."""
    with client_of(create_app(settings, [use_case], clock=lambda: NOW), settings) as client:
        yield client


def asked(client: httpx.Client) -> tuple[list[str], Any]:
    """One row's flags and the stored value that was used."""
    answer = client.post(PATH, json=ASKED)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    return row["flags"], row["features"]["delay"]


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


def healed(client: httpx.Client) -> bool:
    return asked(client) == ([], 0.5)


def degraded(client: httpx.Client) -> tuple[bool, str]:
    told = client.get("/health/ready").json()
    return told["ready"], told["models"][NAME]["degraded"]


def refusing(policy: Down) -> Contract:
    views = tuple(replace(view, down=policy) for view in PLAN.views)
    plan: ReadPlan = replace(PLAN, views=views)
    return replace(CONTRACT, read_plan=plan.to_dict())


def remove(path: Path) -> None:
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()


def test_a_file_that_is_removed_means_defaults_until_it_is_filled_again(
    use_case: UseCase, settings: Settings, promote: Promote, tmp_path: Path
) -> None:
    promote()
    fill(use_case, settings)
    with serving(use_case, settings) as client:
        assert healed(client)
        remove(online_path(use_case, settings))
        for _ in range(4):
            assert asked(client) == (DEFAULT, None)
        assert degraded(client) == (True, DEGRADED)
        metrics = client.get("/metrics").text
        assert 'millrace_default_rows_total{use_case="late",view="carrier_view"} 4.0' in metrics
        assert 'millrace_online_store_down{use_case="late"} 1.0' in metrics
        fill(use_case, settings)
        until(lambda: healed(client))
        assert degraded(client) == (True, "")
        assert 'millrace_online_store_down{use_case="late"} 0.0' in client.get("/metrics").text
    lake = Lake(str(tmp_path / "lake"))
    ship(log_folder(settings, NAME), lake)
    flags = lake.scan(TABLE).collect()["flags"].to_list()
    assert flags[1:5] == ["default:carrier_view"] * 4
    assert (flags[0], flags[-1]) == ("", "")


def test_a_file_that_is_damaged_means_defaults_until_it_is_replaced(
    use_case: UseCase, settings: Settings, promote: Promote
) -> None:
    promote()
    fill(use_case, settings)
    path = online_path(use_case, settings)
    with serving(use_case, settings) as client:
        assert healed(client)
        whole = path.with_name("whole")
        shutil.copy(path, whole)
        remove(path)
        path.write_bytes(whole.read_bytes()[:100] + b"\xff" * 8_000)
        assert asked(client) == (DEFAULT, None)
        remove(path)
        shutil.copy(whole, path)
        until(lambda: healed(client))


def test_a_file_that_somebody_locks_means_defaults_until_it_is_free(
    use_case: UseCase, settings: Settings, promote: Promote
) -> None:
    promote()
    fill(use_case, settings)
    quick = settings.model_copy(update={"feature_ms": 10})
    with serving(use_case, quick) as client:
        with closing(sqlite3.connect(online_path(use_case, settings), isolation_level=None)) as holder:
            holder.execute("PRAGMA locking_mode = EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
            for _ in range(4):
                assert asked(client) == (DEFAULT, None)
        until(lambda: healed(client))


def test_a_view_that_refuses_is_503_by_name_and_rows_with_its_features_go_on(
    use_case: UseCase, settings: Settings, promote: Promote
) -> None:
    promote(contract=refusing("refuse"))
    with serving(use_case, settings) as client:
        for _ in range(4):
            answer = client.post(PATH, json=ASKED)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "feature view carrier_view" in answer.json()["error"]["what"]
            assert answer.json()["error"]["field"] == "rows[0]"
        given = {"rows": [{"delay": 1, "distance": 0}]}
        assert client.post(PATH, json=given).json()["predictions"][0]["flags"] == []
        fill(use_case, settings)
        until(lambda: client.post(PATH, json=ASKED).status_code == 200)


@dataclass
class OwnRedis:
    """A Redis server of one test's own, which keeps nothing when it ends."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.folder}
        command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port)):
                return True
        except ConnectionRefusedError:
            return False

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    redis = OwnRedis(tmp_path, port)
    redis.start()
    yield redis
    redis.end()


@dataclass
class Load:
    """Clients that ask without pause; what each answer was, in the order of arrival."""

    url: httpx.URL
    headers: httpx.Headers
    answers: list[tuple[int, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=30) as client:
            while not self.stop.is_set():
                answer = client.post(PATH, json=ASKED)
                flags = answer.json()["predictions"][0]["flags"] if answer.status_code == 200 else ["none"]
                self.answers.append((answer.status_code, ",".join(flags)))

    def more(self, count: int) -> None:
        """Wait for some more answers."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted)


@contextmanager
def load(client: httpx.Client, clients: int = 8) -> Iterator[Load]:
    found = Load(client.base_url, client.headers)
    threads = [threading.Thread(target=found.ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        for thread in threads:
            thread.join()


def test_a_redis_that_hangs_or_dies_under_load_costs_no_answer_and_each_is_flagged(
    use_case: UseCase, settings: Settings, promote: Promote, own_redis: OwnRedis
) -> None:
    promote()
    url = f"redis://127.0.0.1:{own_redis.port}/0"
    remote = settings.model_copy(update={"online_store": "redis", "redis_url": url})
    fill(use_case, remote)
    with serving(use_case, remote) as client, load(client) as under:
        under.more(50)
        assert set(under.answers) == {(200, "")}
        own_redis.signal(signal.SIGSTOP)
        until(lambda: asked(client)[0] == DEFAULT)
        under.answers.clear()
        under.more(200)
        assert set(under.answers[8:]) == {(200, "default:carrier_view")}
        assert degraded(client) == (True, DEGRADED)
        own_redis.signal(signal.SIGCONT)
        until(lambda: healed(client))

        own_redis.end()
        until(lambda: asked(client)[0] == DEFAULT)
        under.more(200)
        own_redis.start()
        until(lambda: asked(client)[0] == ["missing:carrier_view"])  # it answers, and has nothing
        fill(use_case, remote)
        until(lambda: healed(client))
        under.more(50)
        statuses = Counter(status for status, _ in under.answers)
    assert set(statuses) == {200}
