"""Jobs that are stopped in the middle and go on, and jobs that only one process may run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_series_equal

from millrace.errors import BusyError, ScoreJobError
from pipelines import score_jobs
from pipelines.score_jobs import cancel, found, run_job, score_job, submit, summary
from pipelines.workspace import Workspace
from serving.batch import sinks

from .conftest import AT, ROWS, asked, logistic, scores, trips


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[OSError, int], None]:
    """Lets the folder's third and later writes fail so many times."""
    whole, pauses = sinks.FolderSink.write, []
    monkeypatch.setattr(sinks, "sleep", pauses.append)
    monkeypatch.setattr(sinks, "monotonic", lambda: sum(pauses, 0.0))

    def install(error: OSError, times: int) -> None:
        left = [times]

        def write(self: Any, chunk: int, frame: pl.DataFrame) -> None:
            if chunk >= 2 and left[0]:
                left[0] -= 1
                raise error
            whole(self, chunk, frame)

        monkeypatch.setattr(sinks.FolderSink, "write", write)

    return install


def test_an_output_that_is_away_for_a_minute_is_waited_for(
    ws: Workspace, given: Path, out: Path, failing: Callable[[OSError, int], None]
) -> None:
    failing(OSError(errno.EHOSTDOWN, os.strerror(errno.EHOSTDOWN)), 8)  # 0.5 + 1 + 2 + 4 + 8 + 15 × 3 seconds
    assert score_job(ws, asked(given, out), at=AT).state == "done"
    assert_series_equal(scores(out)["score"], logistic(trips()), abs_tol=1e-6)


def test_an_output_that_stays_away_stops_the_job_which_goes_on_later(
    ws: Workspace, given: Path, out: Path, failing: Callable[[OSError, int], None]
) -> None:
    failing(OSError(errno.EHOSTDOWN, os.strerror(errno.EHOSTDOWN)), 10)
    with pytest.raises(ScoreJobError, match="goes on where it stopped"):
        score_job(ws, asked(given, out, chunk_rows=50), at=AT)
    (row,) = ws.db.score_jobs.list("late")
    assert (row.state, row.rows, ws.db.score_jobs.done(row.id)) == ("failed", 100, 2)
    done = score_job(ws, asked(given, out, chunk_rows=50), at=AT)
    assert (done.state, done.rows, done.resumed) == ("done", ROWS, 2)
    assert_series_equal(scores(out)["score"], logistic(trips()), abs_tol=1e-6)


def test_a_full_disk_stops_at_once_and_the_ledger_is_right(
    ws: Workspace, given: Path, out: Path, failing: Callable[[OSError, int], None]
) -> None:
    failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1)
    with pytest.raises(ScoreJobError, match="no space left"):
        score_job(ws, asked(given, out), at=AT)
    (row,) = ws.db.score_jobs.list("late")
    written = pl.read_parquet(out).height
    assert (row.state, row.rows, row.scored) == ("failed", written, written)
    assert score_job(ws, asked(given, out), at=AT).rows == ROWS


def test_a_file_that_changes_under_way_is_refused(ws: Workspace, given: Path, out: Path) -> None:
    job = submit(ws, asked(given, out), at=AT)
    score_jobs._planned(ws, job)
    trips(ROWS + 1).write_parquet(given)
    with pytest.raises(ScoreJobError, match="changed while the job ran"):
        run_job(ws, job.id)


def test_a_second_start_says_who_holds_the_job(ws: Workspace, given: Path, out: Path) -> None:
    job = submit(ws, asked(given, out), at=AT)
    with ws.db.lease(f"score-job {job.id}"), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        run_job(ws, job.id)
    assert run_job(ws, job.id).state == "done"


def test_a_cancelled_job_stops_after_its_chunk_and_goes_on_when_it_is_started(
    ws: Workspace, given: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, commit = submit(ws, asked(given, out), at=AT), type(ws.db.score_jobs).commit

    def commit_and_cancel(self: Any, chunk: Any) -> str:
        state = commit(self, chunk)
        return "cancelled" if cancel(ws, job.id) and state else state

    monkeypatch.setattr(type(ws.db.score_jobs), "commit", commit_and_cancel)
    stopped = run_job(ws, job.id)
    assert (stopped.state, ws.db.score_jobs.done(job.id)) == ("cancelled", 1)
    monkeypatch.undo()
    done = run_job(ws, job.id)
    assert (done.state, done.rows, done.resumed) == ("done", ROWS, 1)


def test_a_queued_job_is_cancelled_at_once_and_a_done_one_is_not(ws: Workspace, given: Path, out: Path) -> None:
    job = submit(ws, asked(given, out), at=AT)
    assert cancel(ws, job.id).state == "cancelled"
    run_job(ws, job.id)
    assert cancel(ws, job.id).state == "done"


def test_a_job_is_found_by_how_its_id_begins(ws: Workspace, given: Path, out: Path) -> None:
    job = submit(ws, asked(given, out), at=AT)
    assert found(ws, job.id[:6]).id == job.id
    with pytest.raises(ScoreJobError, match="millrace jobs list"):
        found(ws, "none")


def test_a_chunk_that_is_committed_twice_counts_once(ws: Workspace, given: Path, out: Path) -> None:
    from millrace.db import ScoreChunkRow

    job = submit(ws, asked(given, out), at=AT)
    for _ in range(2):
        ws.db.score_jobs.commit(ScoreChunkRow(job.id, 0, 3, 2, 1, "d", 0.1))
    assert summary(ws, found(ws, job.id)).rows == 3
