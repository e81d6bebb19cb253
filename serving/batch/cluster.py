"""The chunks of a batch scoring job on a Ray cluster: Ray Data hands them to actors, each of which opens the job once.

The actors do what a worker on one machine does, on storage that all machines share; the caller commits what comes back.
A process that dies costs the chunks it held, which others do again, to the same result. This module knows Ray Data; it
does not know what a chunk holds.
"""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from millrace.cluster import cores_of_machines, joined_cluster
from millrace.errors import (
    ClusterError,
    MillraceError,
    ScoreJobError,
    error_from_dict,
    error_to_dict,
    first_line,
)
from millrace.settings import Settings, quiet_vendors
from serving.batch.plan import Choice, Chunk, ChunkDone, JobPlan

_TRIES = 5
"""Times that a chunk is begun before the deaths of its processes are its own fault: it may not fit the memory. Ray
would go on for ever, and from 2.64 on takes no number."""

_BEGUN = "begun"


def run_chunks(plan: JobPlan, choice: Choice, settings: Settings, chunks: Sequence[Chunk]) -> Iterator[ChunkDone]:
    """Score the chunks on the cluster that `RAY_ADDRESS` names, and give what came of each as it is done.

    As many run at once as the cluster has cores for the choice's threads. Closing the iterator ends what runs. Raises
    what a chunk raised; `ClusterError` when there is no cluster, or it lost a chunk's process again and again.
    """
    if not chunks:
        return
    folder = Path(plan.folder) / _BEGUN
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with joined_cluster() as ray:
        cores = cores_of_machines(ray)
        threads = max(1, min(choice.threads, max(cores)))
        actors = max(1, min(len(chunks), sum(each // threads for each in cores)))
        tasks = ray.data.from_items([{"chunk": chunk.index} for chunk in chunks], override_num_blocks=len(chunks))
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing ray.data has set it to tell of each stage
        done = tasks.map_batches(
            _Scorer,
            fn_constructor_args=(plan, choice, settings),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        )
        try:
            for row in done.iter_rows():
                yield _answer(row["done"])
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"The Ray cluster gave up on a chunk: {first_line(error)}.",
                looked="Its machines may be gone; every committed chunk stays.",
                todo="See what is up with `ray status`, and start the same job again.",
            ) from error


class _Scorer:
    """An actor: a job's worker, opened once. What it raises travels as a value, since Ray wraps what it sees."""

    def __init__(self, plan: JobPlan, choice: Choice, settings: Settings) -> None:
        quiet_vendors()
        from serving.batch.worker import open_worker

        self._folder = Path(plan.folder) / _BEGUN
        self._chunks = {chunk.index: chunk for chunk in plan.chunks}
        self._error: MillraceError | None = None
        try:
            self._worker = open_worker(plan, choice, settings)
        except MillraceError as error:
            self._error = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """What came of each chunk of the batch, or the error, as JSON."""
        done = [_packed(self._done(self._chunks[index])) for index in batch["chunk"].to_pylist()]
        return pa.table({"done": pa.array(done, pa.large_binary())})

    def _done(self, chunk: Chunk) -> ChunkDone | MillraceError:
        if self._error is not None:
            return self._error
        try:
            self._begin(chunk)
            return self._worker.run(chunk)
        except MillraceError as error:
            return error
        except Exception as error:  # whatever libraries raise: Ray would make many lines of it
            return ScoreJobError(
                f"Chunk {chunk.index} could not be scored: {first_line(error)}.",
                looked=f"It was tried on the machine {platform.node()}.",
                todo="Start the same job again with --engine local to see all of it; every committed chunk stays.",
            )

    def _begin(self, chunk: Chunk) -> None:
        """Count the tries where a process that dies leaves them."""
        with (self._folder / str(chunk.index)).open("ab") as tries:
            tries.write(b".")
            if tries.tell() > _TRIES:
                raise ClusterError(
                    f"Chunk {chunk.index} was begun {_TRIES} times on the cluster, and each time its process died.",
                    looked="It may need more memory than a machine there has; every committed chunk stays.",
                    todo="Score with smaller chunks: --chunk-rows.",
                )


def _packed(done: ChunkDone | MillraceError) -> bytes:
    told = {"error": error_to_dict(done)} if isinstance(done, MillraceError) else {"done": done}
    return msgspec.json.encode(told)


def _answer(packed: bytes) -> ChunkDone:
    told = msgspec.json.decode(packed)
    if "error" in told:
        raise error_from_dict(told["error"]) or ScoreJobError(told["error"]["what"])
    return msgspec.convert(told["done"], ChunkDone)
