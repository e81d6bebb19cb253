"""The champion in memory: watches the database, opens a new one aside and warm, then switches one reference.

A request takes the reference once and keeps to it, so no answer mixes two models. When anything fails, or hangs, the
old model keeps serving and `problem` says why. One model of the process is opened at a time, so that opening never
needs the memory of more than one beside those that serve. This module knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from features.online import open_reader
from millrace.db import Database, ModelRow
from millrace.errors import MillraceError
from millrace.prediction_log import PredictionLog
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase
from serving.aside import Aside, start
from serving.online.answers import Answer
from serving.online.batcher import Batcher
from serving.online.decoder import RequestDecoder
from serving.online.model import Model, OpenReader, no_champion, open_model
from serving.online.request import PredictRequest

POLL_SECONDS = 0.5
"""How often the database is asked who is champion."""
RETRY_SECONDS = 10.0
"""A champion that could not be opened is tried again after this long, in case its files were restored."""
ASK_SECONDS = 5.0
"""How long the database may take to answer; one whose network swallows packets would not for minutes."""
CLOSE_SECONDS = 5.0
"""How long the end of the process waits for a model that is being opened."""
ON_LOOP_SECONDS = 0.002
"""A model that takes longer for one row runs off the event loop, where it does not hold up other requests."""
DEGRADED = "The online store does not answer: the feature views' policies apply until it does."
"""What readiness says while predictions are answered without stored features."""
_logger = logging.getLogger(__name__)
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class Serving:
    """The reference that is switched: a model and the queue before it."""

    model: Model
    batcher: Batcher[PredictRequest, Answer]

    @property
    def version(self) -> int:
        """The version that answers."""
        return self.model.version

    @property
    def decoder(self) -> RequestDecoder:
        """What checks its requests."""
        return self.model.decoder


class Holder:
    """One use case's champion. `served` is None until one is open; `problem` is empty when all is well."""

    def __init__(
        self,
        use_case: UseCase,
        settings: Settings,
        db: Database,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
        log: PredictionLog,
        reader_of: OpenReader = open_reader,
    ) -> None:
        self.use_case, self._settings, self._db = use_case, settings, db
        self._metrics, self._clock, self.log, self._reader_of = metrics, clock, log, reader_of
        self.served: Serving | None = None
        self.problem = ""
        self._failed: tuple[int, str] | None = None  # the version and digest that could not be opened
        self._tried = 0.0
        self._turn = threading.Lock()
        self._asking, self._loading = Aside(f"champion {use_case.name}"), Aside(f"open {use_case.name}")
        self._off_loop = ThreadPoolExecutor(1, thread_name_prefix=f"model {use_case.name}")
        metrics.queue_rows.labels(use_case.name).set_function(self._waiting_rows)
        metrics.store_down.labels(use_case.name).set_function(lambda: float(bool(self.degraded)))

    @property
    def degraded(self) -> str:
        """In what way it answers less than it should; empty when all is well."""
        reader = self.served.model.reader if self.served else None
        return DEGRADED if reader and reader.is_down else ""

    def champion(self) -> Serving:
        """What serves now; `NoChampionError` when nothing does."""
        if self.served is None:
            raise no_champion(self.use_case.name)
        return self.served

    def refresh(self, *, again: bool = False) -> None:
        """Ask the database who is champion and serve that; never raises, and ends in bounded time.

        A version that could not be opened is tried again only after a while, or at once with `again`.
        """
        with self._turn:
            try:
                row = self._asking.run(lambda: self._db.champion(self.use_case.name), seconds=ASK_SECONDS)
            except Exception as error:  # whatever the database's driver raises: we serve what we have
                self._fail("The platform's database does not answer.", error)
                return
            if row is None:
                self.problem = "" if self.served is None else "The database names no champion any more."
            elif self.served is not None and _same(self.served.model, row):
                self.problem = ""
            elif again or (row.version, row.digest) != self._failed or time.monotonic() - self._tried > RETRY_SECONDS:
                self._switch(row)

    async def reload(self) -> None:
        """`refresh` now, off the event loop; a version that could not be opened is tried again."""
        await asyncio.wrap_future(start(partial(self.refresh, again=True), f"reload {self.use_case.name}"))

    async def watch(self) -> None:
        """Refresh for ever, off the event loop."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.wrap_future(start(self.refresh, f"watch {self.use_case.name}"))

    def close(self) -> None:
        """Stop the model's thread once its last batch is done, and finish the log's segment."""
        if self._turn.acquire(timeout=CLOSE_SECONDS):  # a runtime that is taken down while it opens a model may crash
            self._turn.release()
        self._off_loop.shutdown()
        self.log.close()

    def _switch(self, row: ModelRow) -> None:
        seconds = self._settings.load_seconds
        try:
            with _opening:
                model = self._loading.run(partial(self._open, row), seconds=seconds)
        except Exception as error:  # a damaged file, a missing view, no memory: the old one goes on
            self._failed, self._tried = (row.version, row.digest), time.monotonic()
            self._fail(f"Version {row.version} cannot be served.", error)
            self._metrics.swaps.labels(self.use_case.name, "failed").inc()
            return
        remote = self._settings.online_store != "sqlite"  # a local file answers in microseconds, a network may not
        batcher = Batcher[PredictRequest, Answer](
            model.score,
            queue_rows=self._settings.queue_rows,
            deadline=self._settings.deadline_ms / 1_000,
            executor=self._off_loop if remote or model.seconds > ON_LOOP_SECONDS else None,
        )
        self.served, self.problem = Serving(model, batcher), ""
        self._metrics.champion.labels(self.use_case.name).set(row.version)
        self._metrics.swaps.labels(self.use_case.name, "done").inc()
        _logger.info("serving %s version %d", self.use_case.name, row.version)

    def _open(self, row: ModelRow) -> Model:
        return open_model(
            row, self.use_case, self._settings, clock=self._clock, metrics=self._metrics, log=self.log,
            reader_of=self._reader_of,
        )  # fmt: skip

    def _fail(self, what: str, error: Exception) -> None:
        ours = isinstance(error, MillraceError)
        reason = f"{what} {error.what if isinstance(error, MillraceError) else type(error).__name__}"
        if reason != self.problem:
            _logger.error("%s %s", what, error, exc_info=None if ours else error)
        self.problem = reason

    def _waiting_rows(self) -> float:
        return float(self.served.batcher.waiting_rows) if self.served else 0.0


def _same(model: Model, row: ModelRow) -> bool:
    return (model.version, model.digest) == (row.version, row.digest)
