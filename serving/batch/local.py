"""The engine on one machine: as many chunks at once as were chosen are scored, while the one before is written.

The engine and polars leave Python's lock while they work, so threads are enough. What is under way is bounded, and so
is the memory: it grows with the size of a chunk and not with the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from millrace.settings import Settings
from serving.batch.plan import Choice, Chunk, ChunkDone, JobPlan
from serving.batch.worker import ScoredChunk, open_worker


def run_chunks(plan: JobPlan, choice: Choice, settings: Settings, chunks: Sequence[Chunk]) -> Iterator[ChunkDone]:
    """Do the chunks, each once, and yield what came of each as it is done, in no order.

    A chunk is written only when the one before has been taken and so committed: a crash leaves at most one to be done
    again. Whoever stops asking stops the work; the first error stops it as well and is raised.
    """
    worker = open_worker(plan, choice, settings)
    waiting = iter(chunks)
    with ThreadPoolExecutor(choice.workers, thread_name_prefix="score") as pool:
        try:
            running: set[Future[ScoredChunk]] = set()
            while True:
                running |= {
                    pool.submit(worker.score, one) for one in islice(waiting, choice.workers + 1 - len(running))
                }
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                while done:
                    yield worker.write(done.pop().result())
        finally:
            pool.shutdown(cancel_futures=True)
            worker.close()
