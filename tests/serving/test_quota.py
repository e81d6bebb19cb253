"""Quotas: what a key may ask for in a second and at once, in one worker and in several; Redis may be down."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millrace.api_keys import Quota
from millrace.errors import RequestError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from serving.keys import Caller
from serving.quota import Quotas

Body = Callable[[Quotas], Coroutine[Any, Any, None]]


@pytest.fixture(params=["memory", "redis"])
def counted(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings of either store."""
    found: Settings = settings if request.param == "memory" else request.getfixturevalue("needs_redis")
    return found.model_copy(update={"quota_store": request.param})


def caller(**limits: int) -> Caller:
    return Caller(secrets.token_hex(4), "shop", frozenset({"predict"}), Quota(**limits))


def run(settings: Settings, body: Body) -> Metrics:
    """Let `body` use the quotas of these settings."""
    metrics = Metrics()

    async def within() -> None:
        quotas = Quotas(settings, metrics)
        await body(quotas)
        await quotas.close()

    asyncio.run(within())
    return metrics


async def tried(quotas: Quotas, who: Caller, rows: int = 1, times: int = 1) -> list[int]:
    """The statuses of requests one after the other, 200 for those that are let in and out."""
    statuses = []
    for _ in range(times):
        try:
            await quotas.enter(who, rows)
        except RequestError as error:
            statuses.append(error.status)
        else:
            quotas.leave(who)
            statuses.append(200)
    return statuses


async def refusal(quotas: Quotas, who: Caller) -> RequestError:
    """What a caller is told once it is beyond its quota."""
    while True:
        try:
            await quotas.enter(who, 1)
        except RequestError as error:
            return error
        quotas.leave(who)


def test_a_caller_without_a_quota_is_always_let_in(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        assert await tried(quotas, Caller("a", "a", frozenset()), 10_000, 100) == [200] * 100

    run(counted, body)


def test_requests_beyond_the_rate_are_429_and_say_when_to_come_back(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        who = caller(requests_per_second=5)
        statuses = await tried(quotas, who, times=200)
        assert 5 <= statuses.count(200) < 40  # a second or two may pass on a busy machine
        assert set(statuses) == {200, 429}
        refused = await refusal(quotas, who)
        assert (refused.what, refused.retry_after) == ("This key may send at most 5 requests a second.", 1)

    metrics = run(counted, body)
    assert b'millrace_over_quota_total{quota="requests"}' in metrics.render()


def test_rows_are_counted_as_rows(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        statuses = await tried(quotas, caller(rows_per_second=100), rows=40, times=50)
        assert 2 <= statuses.count(200) < 10
        assert set(statuses) == {200, 429}

    run(counted, body)


def test_one_key_takes_nothing_of_another(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        assert 429 in await tried(quotas, caller(requests_per_second=2), times=50)
        assert await tried(quotas, caller(requests_per_second=2)) == [200]

    run(counted, body)


def test_more_rows_than_a_second_allows_are_413_and_cost_nothing(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        who = caller(rows_per_second=10)
        assert await tried(quotas, who, rows=11, times=20) == [413] * 20
        assert await tried(quotas, who, rows=10) == [200]

    run(counted, body)


def test_a_request_without_rows_takes_no_rows(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        assert await tried(quotas, caller(rows_per_second=1), rows=0, times=50) == [200] * 50

    run(counted, body)


def test_only_so_many_are_inside_at_once(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        who = caller(concurrency=2)
        await quotas.enter(who, 1)
        await quotas.enter(who, 1)
        assert await tried(quotas, who, times=3) == [429] * 3
        quotas.leave(who)
        assert await tried(quotas, who, times=3) == [200] * 3

    run(counted, body)


def test_who_is_refused_is_not_inside(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        who = caller(concurrency=1, requests_per_second=1)
        statuses = await tried(quotas, who, times=50)
        assert statuses.count(429) > 40
        assert "requests a second" in (await refusal(quotas, who)).what

    run(counted, body)


def test_a_changed_quota_holds_at_once_and_knows_who_is_inside(settings: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        before = caller(concurrency=1)
        after = Caller(before.id, "shop", before.scopes, Quota(concurrency=2))
        await quotas.enter(before, 1)
        await quotas.enter(after, 1)
        assert await tried(quotas, after) == [429]
        quotas.leave(before)
        assert await tried(quotas, after) == [200]

    run(settings, body)


def test_a_quota_read_anew_is_no_new_allowance(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        key, statuses = secrets.token_hex(4), []
        for _ in range(100):
            statuses += await tried(quotas, Caller(key, "shop", frozenset(), Quota(requests_per_second=5)))
        assert statuses.count(200) < 40

    run(counted, body)


def test_who_gives_up_waiting_is_not_inside_though_the_quota_changed(settings: Settings) -> None:
    async def body(_: Quotas) -> None:
        async with silent_redis(settings) as without:
            quotas = Quotas(without, Metrics())
            before = caller(requests_per_second=1)
            after = Caller(before.id, "shop", before.scopes, Quota(concurrency=1))
            waiting = asyncio.create_task(quotas.enter(before, 1))
            await asyncio.sleep(0)
            assert await tried(quotas, after) == [429]
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await tried(quotas, after) == [200]
            await quotas.close()

    run(settings, body)


def test_many_at_once_share_one_allowance(counted: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        who = caller(requests_per_second=50)
        statuses = [
            status for found in await asyncio.gather(*(tried(quotas, who) for _ in range(500))) for status in found
        ]
        assert 49 <= statuses.count(200) < 200

    run(counted, body)


def test_workers_share_one_allowance_in_redis(needs_redis: Settings) -> None:
    settings = needs_redis.model_copy(update={"quota_store": "redis"})

    async def body(first: Quotas) -> None:
        others = [Quotas(settings, Metrics()) for _ in range(3)]
        who = caller(requests_per_second=20)
        statuses = [await tried(worker, who, times=20) for worker in (first, *others)]
        assert sum(found.count(200) for found in statuses) < 60  # each for itself would let in 80
        for worker in others:
            await worker.close()

    run(settings, body)


def test_workers_learn_how_many_are_inside_the_others(needs_redis: Settings) -> None:
    settings = needs_redis.model_copy(update={"quota_store": "redis"})

    async def body(first: Quotas) -> None:
        second, who = Quotas(settings, Metrics()), caller(concurrency=3)
        sharing = [asyncio.create_task(worker.share()) for worker in (first, second)]
        assert await tried(second, who) == [200]
        for _ in range(2):
            await first.enter(who, 1)
        await second.enter(who, 1)
        async with asyncio.timeout(30):
            while await tried(first, who) + await tried(second, who) != [429, 429]:
                await asyncio.sleep(0.01)
            first.leave(who)
            while await tried(second, who) != [200]:
                await asyncio.sleep(0.01)
        for task in sharing:
            task.cancel()
        await second.close()

    run(settings, body)


def test_one_worker_has_nobody_to_tell(settings: Settings) -> None:
    async def body(quotas: Quotas) -> None:
        async with asyncio.timeout(30):
            await quotas.share()

    run(settings, body)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis://nobody:hunter2@127.0.0.1:6379/0"])
def test_without_redis_a_worker_counts_alone_and_says_so_once(
    settings: Settings, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    without = settings.model_copy(update={"quota_store": "redis", "redis_url": url})

    async def body(quotas: Quotas) -> None:
        for who in (caller(requests_per_second=5), caller(requests_per_second=5)):
            assert {200, 429} == set(await tried(quotas, who, times=200))

    run(without, body)
    assert len([record for record in caplog.records if "Redis does not count" in record.getMessage()]) == 1
    assert "hunter2" not in caplog.text


def test_a_redis_that_never_answers_is_left_alone_after_the_first_wait(settings: Settings) -> None:
    async def body(_: Quotas) -> None:
        async with silent_redis(settings) as without, asyncio.timeout(20):
            quotas = Quotas(without, Metrics())
            many = [tried(quotas, caller(requests_per_second=5)) for _ in range(50)]
            assert await asyncio.gather(*many) == [[200]] * 50
            await quotas.close()

    run(settings, body)


@asynccontextmanager
async def silent_redis(settings: Settings) -> AsyncIterator[Settings]:
    """Settings that name a Redis which takes connections and never answers."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    yield settings.model_copy(update={"quota_store": "redis", "redis_url": url})
    server.close()
