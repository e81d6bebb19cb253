"""The process that runs the batch scoring jobs of this server: started when there is work and none runs.

It is a process of its own, at the lowest priority: a job's libraries and rows would take hundreds of megabytes in the
server, and its model the cores that answer requests. It ends when nothing waits any more, and outlives the server: what
was accepted is run. Of several at once one gets the lease and the others end. This module knows nothing of jobs.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

from millrace.settings import Settings, child_environment

_logger = logging.getLogger(__name__)


class JobWorker:
    """Starts `millrace jobs work` for these use cases. Threads may share it."""

    def __init__(self, settings: Settings, use_cases: Sequence[str]) -> None:
        self._settings, self._use_cases = settings, tuple(use_cases)
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = Lock()

    def wake(self) -> None:
        """See that a worker runs; a failure to start one is logged, and the job waits for the next."""
        if self._settings.job_worker == "elsewhere":
            return
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes] | None:
        command = (sys.executable, "-P", "-m", "millrace.cli", "jobs", "work", "--until-idle", *self._use_cases)
        try:
            with (self._settings.folder("jobs") / "worker.log").open("ab") as said:
                process = subprocess.Popen(  # noqa: S603  # our own interpreter; names of use cases that we serve
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env=child_environment(self._settings),
                    start_new_session=True,
                )
        except OSError as error:
            _logger.error("no process for batch jobs: %s", error.strerror)
            return None
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        return process
