"""Micro-batching: nobody's answer is another's, nobody waits without need, and too much is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.online.batcher import MAX_BATCH_ROWS, Batcher, Overload


class Asking:
    """Waits for an answer as a future."""

    def __init__(self, job: Any, rows: int) -> None:
        self.job, self.rows, self.expires = job, rows, 0.0
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        return self.answer.done()

    def finish(self, answer: Any) -> None:
        if self.gone:
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


async def submit(batcher: Batcher[Any, Any], job: Any, rows: int) -> Any:
    asking = Asking(job, rows)
    batcher.submit(asking)
    return await asking.answer


def doubled(jobs: Sequence[int]) -> list[int]:
    return [2 * job for job in jobs]


def test_ten_thousand_concurrent_jobs_each_get_their_own_answer() -> None:
    batcher = Batcher[int, int](doubled, queue_rows=20_000, deadline=60)

    async def run() -> list[int]:
        return await asyncio.gather(*(submit(batcher, job, 1) for job in range(10_000)))

    assert asyncio.run(run()) == [2 * job for job in range(10_000)]
    assert batcher.waiting_rows == 0


def test_an_exception_among_the_answers_is_its_jobs_alone_and_nothing_runs_again() -> None:
    batches: list[list[int]] = []

    def run_jobs(jobs: Sequence[int]) -> list[int | Exception]:
        batches.append(list(jobs))
        return [ValueError(job) if job == 1 else job for job in jobs]

    batcher = Batcher[int, int](run_jobs, queue_rows=100, deadline=60)

    async def run() -> list[int | BaseException]:
        return await asyncio.gather(*(submit(batcher, job, 1) for job in range(3)), return_exceptions=True)

    first, refused, last = asyncio.run(run())
    assert (first, last, batches) == (0, 2, [[0, 1, 2]])
    assert isinstance(refused, ValueError)


def test_what_arrives_together_runs_together() -> None:
    batches: list[int] = []

    def run_jobs(jobs: Sequence[int]) -> list[int]:
        batches.append(len(jobs))
        return list(jobs)

    batcher = Batcher[int, int](run_jobs, queue_rows=100, deadline=60)

    async def run() -> None:
        await asyncio.gather(*(submit(batcher, job, 1) for job in range(64)))
        await submit(batcher, 1, 1)

    asyncio.run(run())
    assert batches == [64, 1]


def test_what_arrives_while_a_batch_runs_goes_with_the_next() -> None:
    batches: list[list[int]] = []
    started, go_on = threading.Event(), threading.Event()

    def run_jobs(jobs: Sequence[int]) -> list[int]:
        batches.append(list(jobs))
        started.set()
        go_on.wait(10)
        return list(jobs)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int, int](run_jobs, queue_rows=100, deadline=60, executor=executor)
            first = asyncio.ensure_future(submit(batcher, 1, 1))
            await asyncio.to_thread(started.wait, 10)
            later = [asyncio.ensure_future(submit(batcher, job, 1)) for job in (2, 3, 4)]
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(first, *later)

    asyncio.run(run())
    assert batches == [[1], [2, 3, 4]]


def test_a_job_that_fails_leaves_the_others_their_answers() -> None:
    def refuse_seven(jobs: Sequence[int]) -> list[int]:
        if 7 in jobs:
            raise ValueError("seven")
        return doubled(jobs)

    batcher = Batcher[int, int](refuse_seven, queue_rows=100, deadline=60)

    async def run() -> list[int | BaseException]:
        return await asyncio.gather(*(submit(batcher, job, 1) for job in range(10)), return_exceptions=True)

    answers = asyncio.run(run())
    assert isinstance(answers.pop(7), ValueError)
    assert answers == [0, 2, 4, 6, 8, 10, 12, 16, 18]


def test_a_full_queue_is_refused_in_rows_and_heals() -> None:
    batcher = Batcher[int, int](doubled, queue_rows=10, deadline=60)

    async def run() -> tuple[list[int | BaseException], int]:
        first = await asyncio.gather(*(submit(batcher, job, 4) for job in range(4)), return_exceptions=True)
        return first, await submit(batcher, 5, 4)

    answers, later = asyncio.run(run())
    assert answers[:2] == [0, 2]
    assert [type(answer) for answer in answers[2:]] == [Overload, Overload]
    assert later == 10


def test_a_request_larger_than_the_queue_is_answered_when_nothing_waits() -> None:
    batcher = Batcher[int, int](doubled, queue_rows=10, deadline=60)
    assert asyncio.run(submit(batcher, 1, 1_000)) == 2


def test_a_job_past_its_deadline_is_dropped_before_it_runs() -> None:
    ran: list[int] = []

    def run_jobs(jobs: Sequence[int]) -> list[int]:
        ran.extend(jobs)
        return list(jobs)

    batcher = Batcher[int, int](run_jobs, queue_rows=10, deadline=-1)
    with pytest.raises(Overload) as caught:
        asyncio.run(submit(batcher, 1, 1))
    assert caught.value.reason == "deadline"
    assert ran == []


def test_a_client_that_went_away_costs_nothing() -> None:
    ran: list[int] = []

    def run_jobs(jobs: Sequence[int]) -> list[int]:
        ran.extend(jobs)
        return list(jobs)

    batcher = Batcher[int, int](run_jobs, queue_rows=10, deadline=60)

    async def run() -> int:
        gone = asyncio.ensure_future(submit(batcher, 1, 1))
        stays = asyncio.ensure_future(submit(batcher, 2, 1))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(run()) == 2
    assert ran == [2]


def test_a_batch_ends_at_its_largest_size() -> None:
    batches: list[int] = []

    def run_jobs(jobs: Sequence[int]) -> list[int]:
        batches.append(len(jobs))
        return list(jobs)

    batcher = Batcher[int, int](run_jobs, queue_rows=100_000, deadline=60)

    async def run() -> None:
        await asyncio.gather(*(submit(batcher, job, MAX_BATCH_ROWS // 2) for job in range(5)))

    asyncio.run(run())
    assert batches == [2, 2, 1]


def test_a_refusal_of_the_server_is_everybodys_and_nothing_runs_again() -> None:
    ran: list[int] = []

    def refuse(jobs: Sequence[int]) -> list[int]:
        ran.append(len(jobs))
        raise Overload("log", "No room.")

    batcher = Batcher[int, int](refuse, queue_rows=100, deadline=60)

    async def run() -> list[int | BaseException]:
        return await asyncio.gather(*(submit(batcher, job, 1) for job in range(10)), return_exceptions=True)

    assert {type(answer) for answer in asyncio.run(run())} == {Overload}
    assert ran == [10]


def test_one_that_went_away_is_told_so_that_it_can_be_let_out() -> None:
    async def run() -> list[Any]:
        told: list[Any] = []

        class Gone(Asking):
            @property
            def gone(self) -> bool:
                return True

            def finish(self, answer: Any) -> None:
                told.append(answer.status)

        batcher = Batcher[int, int](doubled, queue_rows=100, deadline=60)
        batcher.submit(Gone(1, 1))
        assert await submit(batcher, 2, 1) == 4
        return told

    assert asyncio.run(run()) == [499]


def test_whoever_waits_for_room_is_called_when_there_is_and_all_are_when_nothing_is_left() -> None:
    async def run() -> list[tuple[int, int]]:
        called: list[tuple[int, int]] = []
        batcher = Batcher[int, int](doubled, queue_rows=2 * MAX_BATCH_ROWS, deadline=60)
        asked = [asyncio.ensure_future(submit(batcher, job, MAX_BATCH_ROWS)) for job in range(2)]
        await asyncio.sleep(0)
        assert batcher.full
        for number in range(50):
            batcher.when_room(lambda number=number: called.append((number, batcher.waiting_rows)))  # type: ignore[misc]
        await asyncio.gather(*asked)
        return called

    called = asyncio.run(run())
    assert [number for number, _ in called] == list(range(50))
    assert called[0][1] == MAX_BATCH_ROWS
    assert called[-1][1] == 0


def test_an_answer_that_cannot_be_given_keeps_nobody_else_from_his() -> None:
    async def run() -> int:
        class Broken(Asking):
            def finish(self, answer: Any) -> None:
                raise RuntimeError

        batcher = Batcher[int, int](doubled, queue_rows=100, deadline=60)
        batcher.submit(Broken(1, 1))
        answer: int = await submit(batcher, 2, 1)
        return answer

    assert asyncio.run(run()) == 4
