"""An existing Ray cluster, joined for as long as something runs on it.

Ray is an optional part (`pip install 'millrace[ray]'`) and importing this module does not import it. The cluster is the
operator's: it is found by Ray's own variable `RAY_ADDRESS`, never started here. This module does not know what runs.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from millrace.errors import ClusterError, first_line
from millrace.settings import ray_address

_ANSWER_S = 5.0


@contextmanager
def joined_cluster() -> Iterator[Any]:
    """The module `ray`, connected to the cluster that `RAY_ADDRESS` names; everything that the body started there ends
    with it. A process that is connected already stays so.

    Raises `ClusterError` when Ray is not installed, no cluster is named, or the named one does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(
            "Ray is not installed, and this was to run on a Ray cluster.",
            todo="Install it on every machine there: pip install 'millrace[ray]'; or run it on this one alone.",
        )
    import ray

    if ray.is_initialized():
        yield ray
        return
    _connect(ray, _checked(ray_address()))
    try:
        with redirect_stdout(sys.stderr):  # Ray prints what befalls its workers: it is not our answer
            yield ray
    finally:
        ray.shutdown()


def cores_of_machines(ray: Any) -> list[int]:
    """How many cores each machine of the cluster offers; what asks one for more than it has waits for ever."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def _checked(address: str) -> str:
    """An address at which something listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise ClusterError(
            "No Ray cluster is named." if not address else f"RAY_ADDRESS={address!r} is no cluster's HOST:PORT.",
            looked="The cluster is named by the environment's variable RAY_ADDRESS.",
            todo="Run on a machine of the cluster, with RAY_ADDRESS=HOST:PORT as `ray start --head` printed it.",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise _away(address, error) from error
    return address


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, namespace="millrace", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _away(address, error) from error


def _away(address: str, error: BaseException) -> ClusterError:
    return ClusterError(
        f"The Ray cluster at {address} does not take this process in: {first_line(error)}.",
        looked="The address is the environment's variable RAY_ADDRESS; a machine joins a cluster with `ray start`.",
        todo=f"See what is up: ray status --address {address}; the same Ray and Python must run on every machine.",
    )
