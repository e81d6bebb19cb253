"""Greedy micro-batching: whatever arrived while the last batch ran goes together; no timer, nothing waits when idle.

The queue is bounded in rows, and a request past its deadline is dropped before it costs. A batch that fails is run
again one request at a time, so that a bad request changes nobody else's answer. This module knows nothing of models:
`run` takes jobs and gives one answer each.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, Protocol, TypeVar

from millrace.errors import RequestError

Job = TypeVar("Job")
Answer = TypeVar("Answer")
JobOf = TypeVar("JobOf", covariant=True)
AnswerTo = TypeVar("AnswerTo", contravariant=True)

_logger = logging.getLogger(__name__)
MAX_BATCH_ROWS = 1_024
"""A batch ends at the request that reaches this many rows: beyond it the model gains nothing and the others wait."""


class Waiting(Protocol[JobOf, AnswerTo]):
    """Who waits for the answer to one job, of so many `rows`. `expires` is the batcher's to set."""

    rows: int
    expires: float

    @property
    def job(self) -> JobOf:
        """What is asked."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more: the job is dropped before it costs."""

    def finish(self, answer: AnswerTo | Exception) -> None:
        """The answer, or what is wrong; called once, on the event loop. Must not raise."""


class Overload(RequestError):  # noqa: N818  # it is a state of the server, not an error of anybody's
    """The request is refused to protect the others; `reason` is `queue`, `deadline` or `log`.

    `retry_after` are the seconds after which it may be sent again.
    """

    def __init__(self, reason: str, what: str, *, status: int = 503, retry_after: int = 1, looked: str = "") -> None:
        self.reason, todo = reason, "Send it again after the seconds in Retry-After."
        super().__init__(status, what, looked=looked, todo=todo, retry_after=retry_after)


def too_many() -> Overload:
    """The refusal of what does not fit the queue."""
    return Overload("queue", "Too many rows are waiting for the model.")


class Batcher(Generic[Job, Answer]):
    """One model's queue, used from one event loop.

    `run` is called with the jobs of one batch, never twice at once, and returns as many answers in their order; an
    exception among them is raised for that job alone, and nothing is run again. Without an executor it runs on the loop
    itself, which is fastest when it takes microseconds; give one for what blocks.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        *,
        queue_rows: int,
        deadline: float,
        executor: Executor | None = None,
    ) -> None:
        self._run, self._executor = run, executor
        self._limit, self._deadline = queue_rows, deadline
        self._queue: deque[Waiting[Job, Answer]] = deque()
        self._busy = False
        self._room: deque[Callable[[], None]] = deque()
        self.waiting_rows = 0

    @property
    def full(self) -> bool:
        """Whether no row fits any more: asked before a request is decoded, so that refusing it costs little."""
        return self.waiting_rows >= self._limit

    def when_room(self, go_on: Callable[[], None]) -> None:
        """Call back when rows fit again, in the order of asking: for a client that need not be read before."""
        self._room.append(go_on)

    def submit(self, waiting: Waiting[Job, Answer]) -> None:
        """Queue a job; its `finish` is called when its batch has run. Raises `Overload` when the queue is full.

        Callbacks, not futures: a future and the task that awaits it would cost each request 5 µs of 45.
        """
        if self.waiting_rows + waiting.rows > self._limit and self._queue:
            raise too_many()
        loop = asyncio.get_running_loop()
        waiting.expires = loop.time() + self._deadline
        self._queue.append(waiting)
        self.waiting_rows += waiting.rows
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start)

    def _start(self) -> None:
        """Run one batch; on the loop, everything that became ready in this turn of it is in the queue by now."""
        batch = self._take()
        if self._executor is None or not batch:
            self._finish(batch, self._answers([waiting.job for waiting in batch]))
            return
        jobs = [waiting.job for waiting in batch]
        running = asyncio.get_running_loop().run_in_executor(self._executor, self._answers, jobs)
        running.add_done_callback(lambda done: self._finish(batch, _outcome(done, len(batch))))

    def _take(self) -> list[Waiting[Job, Answer]]:
        batch: list[Waiting[Job, Answer]] = []
        now, rows = asyncio.get_running_loop().time(), 0
        while self._queue and rows < MAX_BATCH_ROWS:
            waiting = self._queue.popleft()
            self.waiting_rows -= waiting.rows
            if waiting.gone:
                waiting.finish(RequestError(499, "The client went away before its answer."))
                continue
            if waiting.expires < now:
                waiting.finish(Overload("deadline", "The request waited longer than its deadline."))
                continue
            batch.append(waiting)
            rows += waiting.rows
        return batch

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Answer | Exception]:
        """One answer or error a job."""
        if not jobs:
            return ()
        try:
            return self._run(jobs)
        except Overload as error:  # a state of the server: one at a time it would be the same again
            return [error] * len(jobs)
        except Exception as error:  # of one job, we cannot know of which: each is tried alone
            if len(jobs) == 1:
                return (error,)
            return [self._answers((job,))[0] for job in jobs]

    def _finish(self, batch: Sequence[Waiting[Job, Answer]], answers: Sequence[Answer | Exception]) -> None:
        for waiting, answer in zip(batch, answers, strict=True):
            try:
                waiting.finish(answer)
            except Exception:  # it must not: but were it to, the others of the batch would wait for ever
                _logger.exception("an answer could not be given")
        fit = 1 + (self._limit - self.waiting_rows) // MAX_BATCH_ROWS if self._queue else len(self._room)
        for _ in range(min(len(self._room), fit)):
            self._room.popleft()()
        if self._queue:
            asyncio.get_running_loop().call_soon(self._start)
        else:
            self._busy = False


def _outcome(done: asyncio.Future[Sequence[Answer | Exception]], jobs: int) -> Sequence[Answer | Exception]:
    """What the executor gave; its own failure (a shutdown) is every job's."""
    if done.cancelled():
        return [RuntimeError("the model's thread was stopped")] * jobs
    error = done.exception()
    return [error if isinstance(error, Exception) else RuntimeError(str(error))] * jobs if error else done.result()
