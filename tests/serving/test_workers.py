"""Several workers as processes: they start, agree, die, are started again, drain and end, and lose nothing."""

from __future__ import annotations

import asyncio
import math
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from millrace.errors import BusyError
from millrace.lake import open_lake
from millrace.prediction_log import TABLE, log_folder, ship
from millrace.settings import Settings
from serving.keys import api_key
from serving.listening import bind, reserve

from .conftest import CONTRACT, Promote
from .process import Answer, Load, Server, question, serving

CLIENTS = 8
KILLS, ROUNDS = 20, 4
REQUESTS = 10_000


@pytest.fixture
def key(settings: Settings) -> dict[str, str]:
    return {"X-API-Key": api_key(settings)}


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def champions(server: Server, key: dict[str, str]) -> dict[str, float]:
    """The version that each worker says it serves."""
    lines = httpx.get(f"{server.url}/metrics", headers=key, timeout=30).text.splitlines()
    found = [line for line in lines if line.startswith("millrace_champion_version{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def test_workers_share_a_port_and_any_of_them_answers_for_all(
    settings: Settings, promote: Promote, key: dict[str, str]
) -> None:
    promote()
    with serving(settings, "--workers", "2") as server:
        assert len(server.workers()) == 2
        assert champions(server, key) == {"0": 1, "1": 1}
        promote(2)
        answer = httpx.post(f"{server.url}/v1/late/reload", headers=key, timeout=30)
        assert answer.status_code == 200
        told = [{"worker": number, "version": 2, "problem": ""} for number in (0, 1)]
        assert answer.json() == {"use_case": "late", "workers": told}
        promote(3)
        wait_until(lambda: champions(server, key) == {"0": 3, "1": 3})
        promote(4, contract=replace(CONTRACT, use_case="other"))
        answer = httpx.post(f"{server.url}/v1/late/reload", headers=key, timeout=30)
        assert answer.status_code == 503
        assert [(each["version"], bool(each["problem"])) for each in answer.json()["workers"]] == [(3, True)] * 2
        workers = server.workers()
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == 0
        assert not any(worker.is_running() for worker in workers)


def test_one_server_serves_several_use_cases(settings: Settings, promote: Promote, key: dict[str, str]) -> None:
    promote()
    fruit = str(Path(__file__).parent.parent / "pipelines" / "cases" / "fruit")
    with serving(settings, "--workers", "2", fruit) as server:
        models = httpx.get(f"{server.url}/v1/models", headers=key, timeout=30).json()["models"]
        assert [(each["use_case"], each["serving"]) for each in models] == [("late", 1), ("fruit", None)]


def test_a_second_server_is_told_that_the_port_is_taken(settings: Settings) -> None:
    with reserve(settings.model_copy(update={"port": 0})) as reserved:
        taken = settings.model_copy(update={"port": reserved.getsockname()[1]})
        with bind(taken, shared=True) as listener:
            listener.listen()
            with pytest.raises(BusyError, match="already listens"):
                reserve(taken)


def test_a_worker_that_dies_is_started_again_while_the_others_answer(
    settings: Settings, promote: Promote, key: dict[str, str]
) -> None:
    promote()
    with serving(settings, "--workers", "2") as server:
        first, second = server.workers()
        first.kill()
        psutil.wait_procs([first], timeout=60)
        assert httpx.get(f"{server.url}/health/ready", timeout=30).status_code == 200
        wait_until(lambda: len(server.workers()) == 2 and set(champions(server, key)) == {"0", "1"})
        assert second in server.workers()
        assert "SIGKILL" in server.errors.read_text()


def test_workers_end_when_their_parent_is_killed(settings: Settings, promote: Promote) -> None:
    promote()
    with serving(settings, "--workers", "2") as server:
        workers = server.workers()
        server.process.kill()
        assert psutil.wait_procs(workers, timeout=60)[1] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_at_once_without_a_traceback(settings: Settings, promote: Promote, workers: str) -> None:
    promote()
    with serving(settings, "--workers", workers) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.ended() == 130
        assert server.errors.read_text() == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_cannot_start_ends_with_the_reason(settings: Settings, workers: str) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    with (
        pytest.raises(AssertionError, match="MILLRACE_DATABASE_URL"),
        serving(settings, "--workers", workers, database_url=nowhere),
    ):
        pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_fails_while_a_server_ends(settings: Settings, promote: Promote, workers: str) -> None:
    promote()
    statuses: list[int] = []

    async def drive(ending: Server, staying: Server) -> Load:
        load = Load(question(settings), [ending.port, staying.port], lambda answer: statuses.append(answer.status))
        clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
        while len(statuses) < REQUESTS // 3:
            await asyncio.sleep(0.01)
        ending.process.send_signal(signal.SIGTERM)
        while len(statuses) < REQUESTS:
            await asyncio.sleep(0.01)
        assert ending.process.poll() is not None or await asyncio.to_thread(ending.ended) == 0
        load.stop.set()
        await asyncio.gather(*clients)
        return load

    with serving(settings, "--workers", workers) as ending, serving(settings) as staying:
        load = asyncio.run(drive(ending, staying))
        assert ending.ended() == 0
    assert load.broken == 0
    assert set(statuses) == {200}


def test_fifty_swaps_under_load_fail_and_mix_nothing(settings: Settings, promote: Promote, key: dict[str, str]) -> None:
    promote(1, (1 / 50, 0.0))
    answers: list[Answer] = []

    async def drive(server: Server) -> Load:
        load = Load(question(settings, rows=3), [server.port], answers.append)
        clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
        async with httpx.AsyncClient(base_url=server.url, headers=key, timeout=60) as admin:
            for version in range(2, 52):
                promote(version, (version / 50, 0.0))
                told = (await admin.post("/v1/late/reload")).json()["workers"]
                assert [each["version"] for each in told] == [version, version]
        load.stop.set()
        await asyncio.gather(*clients)
        return load

    with serving(settings, "--workers", "2") as server:
        load = asyncio.run(drive(server))
    assert load.broken == 0
    assert {answer.status for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert len({body["version"] for body in bodies}) > 25
    for body in bodies:
        expected = 1 / (1 + math.exp(-body["version"] / 50))
        assert [row["score"] for row in body["predictions"]] == pytest.approx([expected] * 3, abs=1e-6)


def test_killed_workers_lose_and_double_no_acknowledged_prediction(settings: Settings, promote: Promote) -> None:
    promote()
    acknowledged: list[str] = []
    lake, folder, chance = open_lake(settings, "late"), log_folder(settings, "late"), random.Random(5)

    def heard(answer: Answer) -> None:
        if answer.status == 200:
            acknowledged.extend(row["id"] for row in answer.json()["predictions"])

    async def drive(server: Server) -> None:
        load = Load(question(settings, rows=2), [server.port], heard)
        clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
        for _ in range(KILLS // ROUNDS):
            before = len(acknowledged)
            while len(acknowledged) < before + 200:
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0, 0.3))
            chance.choice(server.workers()).kill()
            await asyncio.to_thread(ship, folder, lake)  # while the others go on writing
        load.stop.set()
        await asyncio.gather(*clients)

    for _ in range(ROUNDS):
        with serving(settings, "--workers", "2") as server:
            asyncio.run(drive(server))
            server.process.send_signal(signal.SIGTERM)
            server.ended()
    ship(folder, lake)
    logged = lake.scan(TABLE).collect()["prediction_id"].to_list()
    assert len(logged) == len(set(logged))
    assert set(acknowledged) <= set(logged)
    assert not list(folder.iterdir())
