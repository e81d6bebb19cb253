"""A training on a Ray cluster: Ray Train places and numbers its processes, which run `millrace train` as torchrun's do.

With one process the whole training is one remote worker's; with several the first leads and the others follow, exactly
as under torchrun (`pipelines.following`), so a network is fitted by the same code. The settings travel as an argument,
not as a runtime environment, which Ray's dashboard shows. This module does not know what a training does.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from millrace.cluster import cores_of_machines, joined_cluster
from millrace.errors import MillraceError, TrainingError, error_from_dict, error_to_dict, first_line
from millrace.loader import load_use_case
from millrace.settings import Settings, child_environment, quiet_vendors, read_settings
from pipelines.launch import Job, Outcome, Tell, arguments, default_limit, run_limited

_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class _Order:
    """What a worker is told; the first one sends what it says to the queue `lines`, and what came of it to `ends`."""

    job: Job
    settings: Settings
    limit: timedelta
    lines: Any
    ends: Any


def on_cluster(job: Job, tell: Tell | None = None, *, limit: timedelta | None = None) -> Outcome:
    """Run it on the cluster that `RAY_ADDRESS` names, with a core for each thread of each process, and wait.

    Every machine of the cluster needs the platform's stores and the use case's folder under the same names: `settings`
    that point at this machine's disk do for its own processes only. `tell` hears the first process' lines. When this
    process ends before, so does the training. Raises what the training raised; `ClusterError` when there is no cluster.
    """
    settings = read_settings()
    limit = limit or default_limit(load_use_case(job.use_case, settings), job.options)
    with joined_cluster() as ray, _listening(tell) as lines, _queue() as ends:
        _fit(ray, _Order(job, settings, limit, lines, ends))
        end = ends.get_nowait()  # Ray Train keeps what is reported only beside a checkpoint
    if "error" in end:
        raise error_from_dict(end["error"]) or TrainingError(end["error"]["what"])
    outcome: Outcome = json.loads(end["answer"])
    return outcome | {"as_of": job.as_of}


def _fit(ray: Any, order: _Order) -> None:
    """Let the processes run to their end."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    hardware = order.job.options.hardware
    _check_room(ray, hardware.processes, hardware.threads)
    trainer = DataParallelTrainer(
        _work,
        train_loop_config={"order": order},
        scaling_config=ScalingConfig(num_workers=hardware.processes, resources_per_worker={"CPU": hardware.threads}),
        run_config=RunConfig(storage_path=str(order.settings.folder("ray"))),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray Train's errors of the group, the workers and the cluster have no common parent
        raise TrainingError(
            f"The training on the Ray cluster was ended: {first_line(error)}.",
            looked="A worker, or the machine it ran on, was lost; the champion is untouched.",
            todo="Run it again; with --resume networks go on where they were.",
        ) from error


def _check_room(ray: Any, processes: int, threads: int) -> None:
    """Ray would wait for ever for cores that no machine has."""
    cores = cores_of_machines(ray)
    if processes > sum(each // threads for each in cores):
        raise TrainingError(
            f"{processes} processes of {threads} threads do not fit the Ray cluster.",
            looked=f"Its machines have {', '.join(map(str, cores))} cores.",
            todo="Train with fewer --processes, or let more machines join: ray start --address=…",
        )


def _work(config: dict[str, Any]) -> None:
    """A worker's whole life; the first one tells what the training's process answered or ended with."""
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    quiet_vendors()
    order: _Order = config["order"]
    place = train.get_context()
    leads, alone = place.get_world_rank() == 0, place.get_world_size() == 1
    environment = child_environment(order.settings)
    if not alone:
        meeting = broadcast_from_rank_zero(_free_place() if leads else None)
        environment |= _as_torchrun(place, *meeting)
    command = [sys.executable, "-m", "millrace.cli", *arguments(order.job), "--launch", "here", "--lines", "--json"]
    try:
        answer = run_limited(command, environment, limit=order.limit, tell=order.lines.put if leads else None)
        end: dict[str, Any] = {"answer": answer}
    except MillraceError as error:
        end = {"error": error_to_dict(error)}
    if leads:
        order.ends.put(end)


def _free_place() -> tuple[str, int]:
    """This machine's address within the cluster and a port that is free here now."""
    import ray

    address = ray.util.get_node_ip_address()
    with socket.socket() as found:
        found.bind((address, 0))
        return address, found.getsockname()[1]


def _as_torchrun(place: Any, address: str, port: int) -> dict[str, str]:
    """What torchrun tells a process of its own (torch.distributed.run, "Environment Variables")."""
    return {
        "TORCHELASTIC_RUN_ID": f"ray-{port}",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(place.get_world_rank()),
        "WORLD_SIZE": str(place.get_world_size()),
        "LOCAL_RANK": str(place.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(place.get_local_world_size()),
        "GROUP_RANK": str(place.get_node_rank()),
    }


@contextmanager
def _listening(tell: Tell | None) -> Iterator[Any]:
    """A queue of the cluster whose lines go to `tell` as they come."""
    from ray.util.queue import Empty

    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            try:
                line = lines.get(timeout=_POLL_S)
            except Empty:
                continue
            if tell is not None:
                tell(line)

    with _queue() as lines:
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield lines
        finally:
            over.set()
            listener.join()


@contextmanager
def _queue() -> Iterator[Any]:
    """A queue of the cluster, for as long as the body runs."""
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    try:
        yield queue
    finally:
        queue.shutdown()
