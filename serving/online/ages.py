"""How old the newest event of each online view is, for Prometheus: asked of the store now and then, off the event loop.

Between two askings an age grows by the clock, and when the store does not answer it goes on growing, so that an alert
on it fires. This module knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial

from features.freshness import newest_events
from millrace.errors import FeatureError
from millrace.settings import Settings
from millrace.telemetry import Metrics
from millrace.usecase import UseCase

REFRESH_SECONDS = 30.0
"""How often the store is asked for the newest events: one small read a view."""
_logger = logging.getLogger(__name__)


class Ages:
    """The ages of all online views of some use cases, as gauges of `metrics`; without a store there are no views."""

    def __init__(
        self, use_cases: Iterable[UseCase], settings: Settings, *, metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        self._use_cases = tuple(use_case for use_case in use_cases if use_case.feature_repo is not None)
        self._settings = settings
        self._metrics, self._clock = metrics, clock
        self._newest: dict[tuple[str, str], datetime] = {}

    async def watch(self) -> None:
        """Refresh for ever, off the event loop."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Ask the store for the newest events; what does not answer keeps the ones it had. Never raises."""
        for use_case in self._use_cases:
            try:
                found = newest_events(use_case, self._settings)
            except FeatureError as error:  # not applied yet, or the store is down: readiness and requests say so too
                _logger.info("the ages of the feature views of %s are not known: %s", use_case.name, error.what)
                continue
            for entry, event in found.items():
                of = (use_case.name, entry.name)
                self._newest[of] = event
                self._metrics.feature_age.labels(*of).set_function(partial(self._age, of))
                if entry.ttl is not None:
                    self._metrics.feature_ttl.labels(*of).set(entry.ttl)

    def _age(self, of: tuple[str, str]) -> float:
        return (self._clock() - self._newest[of]).total_seconds()
