"""The worker of batch scoring jobs: runs what waits in the ledger, one job after the other.

A job whose process died is taken over, one that another process runs is left to it. One that fails is `failed` in the
ledger and the next one is run; it waits for whoever asks for it again.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from millrace.db import Database, ScoreJobRow
from millrace.errors import BusyError
from millrace.settings import Settings
from pipelines.score_jobs import JobSummary, run_job
from pipelines.workspace import open_workspace

POLL_SECONDS = 2.0
Tell = Callable[[JobSummary], None]
_logger = logging.getLogger(__name__)


def work(settings: Settings, use_cases: Sequence[str], *, until_idle: bool, tell: Tell) -> int:
    """Run the jobs of these use cases (all without a name), the oldest first; `tell` hears each that ends.

    One worker a host works at a time; another one waits for its turn or, with `until_idle`, ends, as it does when
    nothing is left to run. Returns how many jobs were run.
    """
    db, ran, taken = Database.open(settings), 0, set[str]()
    try:
        while True:
            before = ran
            with suppress(BusyError), db.lease(f"score-jobs worker {socket.gethostname()}"):
                for row in db.score_jobs.waiting(use_cases):
                    if row.state == "queued" or row.id not in taken:  # a dead process's job is taken over once
                        taken.add(row.id)
                        ran += _run(row, tell)
            if ran == before:
                if until_idle:
                    return ran
                time.sleep(POLL_SECONDS)
    finally:
        db.close()


def _run(row: ScoreJobRow, tell: Tell) -> bool:
    """Run one job to its end, good or bad; False when another process has it."""
    try:
        with open_workspace(row.spec["use_case"]) as ws:
            tell(run_job(ws, row.id))
    except BusyError:
        return False
    except Exception:  # whatever stopped it is in the ledger too; the others shall still be run
        _logger.exception("score job %s failed", row.id)
    return True
