"""What the engine on a cluster decides by itself; `tests/pipelines/test_cluster.py` scores on one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import ClusterError, ScoreJobError
from serving.batch import cluster
from serving.batch.plan import Chunk, ChunkDone

CHUNK = Chunk(0, 0, ())
DONE = ChunkDone(0, 0, 0, 0, "", 0.0)


def scorer(folder: Path, run: Any) -> Any:
    """An actor whose worker is this function."""
    found = object.__new__(cluster._Scorer)
    (folder / "begun").mkdir(exist_ok=True)
    found._folder, found._chunks, found._error = folder / "begun", {0: CHUNK}, None
    found._worker = SimpleNamespace(run=run)
    return found


def test_a_chunk_whose_process_dies_each_time_is_given_up(tmp_path: Path) -> None:
    said = [scorer(tmp_path, lambda chunk: DONE)._done(CHUNK) for _ in range(6)]
    assert said[:5] == [DONE] * 5
    assert isinstance(said[5], ClusterError)
    assert "--chunk-rows" in said[5].todo


def test_an_error_of_ours_comes_back_as_it_was_raised(tmp_path: Path) -> None:
    def away(chunk: Chunk) -> ChunkDone:
        raise ScoreJobError("gone", looked="there", todo="try")

    said = cluster._packed(scorer(tmp_path, away)._done(CHUNK))
    with pytest.raises(ScoreJobError) as raised:
        cluster._answer(said)
    assert (raised.value.what, raised.value.looked, raised.value.todo) == ("gone", "there", "try")


def test_an_error_of_others_comes_back_in_one_line(tmp_path: Path) -> None:
    def broken(chunk: Chunk) -> ChunkDone:
        raise OSError("the disk\nand more")

    said = scorer(tmp_path, broken)._done(CHUNK)
    assert isinstance(said, ScoreJobError)
    assert "Chunk 0 could not be scored: OSError: the disk." in said.what


def test_without_chunks_no_cluster_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nothing: Any = None
    assert list(cluster.run_chunks(nothing, nothing, nothing, [])) == []
