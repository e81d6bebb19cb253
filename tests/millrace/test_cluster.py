"""Finding a Ray cluster: who is not there is told before anything is sent."""

from __future__ import annotations

import importlib.util

import pytest

from millrace.cluster import joined_cluster
from millrace.errors import ClusterError


@pytest.fixture
def has_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'millrace[ray]'")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"pip install 'millrace\[ray\]'"), joined_cluster():
        pass


@pytest.mark.usefixtures("has_ray")
@pytest.mark.parametrize("address", ["", "auto", "ray://127.0.0.1:10001", "127.0.0.1:", ":6379"])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match="RAY_ADDRESS=HOST:PORT"), joined_cluster():
        pass


@pytest.mark.usefixtures("has_ray")
def test_a_cluster_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1 does not take this process in: ConnectionRefused"):
        joined_cluster().__enter__()
