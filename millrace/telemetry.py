"""Every Prometheus metric of the platform, named once; a process makes one `Metrics` and hands it to its parts.

Labels take few values by design (use cases, versions, routes, reasons), never ids, keys or anything a client sent. This
module knows nothing of HTTP: who serves the page asks for `render()`.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Media type of `Metrics.render()`."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one process, in a registry of their own (so that two servers in one process do not meet)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("millrace_requests", "Answered requests.", "route", "status")
        self.request_seconds = self._histogram(
            "millrace_request_seconds", "From a prediction request's arrival to its answer.", _SECONDS, "use_case"
        )
        self.predictions = self._counter("millrace_predictions", "Rows predicted.", "use_case", "version")
        self.missing_views = self._counter(
            "millrace_missing_views", "Predicted rows for which a feature view had no fresh values.", "use_case", "view"
        )
        self.stale_rows = self._counter(
            "millrace_stale_rows", "Predicted rows for which a feature view had expired values.", "use_case", "view"
        )
        self.default_rows = self._counter(
            "millrace_default_rows", "Predicted rows for which the online store did not answer.", "use_case", "view"
        )
        self.store_down = self._gauge(
            "millrace_online_store_down", "1 while the online store has failed and is not asked.", "use_case"
        )
        self.feature_age = self._gauge(
            "millrace_feature_age_seconds", "Since the newest event of an online feature view.", "use_case", "view"
        )
        self.feature_ttl = self._gauge(
            "millrace_feature_ttl_seconds", "After which an event of a feature view expires.", "use_case", "view"
        )
        self.batch_rows = self._histogram("millrace_batch_rows", "Rows that the model saw at once.", _ROWS, "use_case")
        self.queue_rows = self._gauge("millrace_queue_rows", "Rows that wait for the model.", "use_case")
        self.shed = self._counter("millrace_shed", "Requests refused to protect the others.", "use_case", "reason")
        self.champion = self._gauge("millrace_champion_version", "Version that serves.", "use_case")
        self.swaps = self._counter("millrace_swaps", "Attempts to serve another champion.", "use_case", "outcome")

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)
