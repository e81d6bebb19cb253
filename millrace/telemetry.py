"""Every Prometheus metric of the platform, named once; a process makes one `Metrics` and hands it to its parts.

Labels take few values by design (use cases, versions, routes, reasons), never ids, keys or anything a client sent. This
module knows nothing of HTTP: who serves the page asks for `render()`.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        self.refused = self._counter("millrace_refused", "Requests that the guard turned away.", "reason")
        self.over_quota = self._counter("millrace_over_quota", "Requests beyond their key's quota.", "quota")
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
        self.unlogged = self._counter(
            "millrace_unlogged_predictions", "Rows answered though the log could not be written.", "use_case"
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
        self.labels = self._counter("millrace_labels", "Outcomes that clients posted.", "use_case", "kind")
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


def merge(pages: Mapping[int, bytes]) -> bytes:
    """The pages that several workers of one server rendered as one, each series with its `worker` as a label.

    Not sums: a worker that is started again counts from zero, which Prometheus allows for in a series of its own but
    takes for a jump in a sum. `sum without (worker) (rate(…))` is the server's rate.
    """
    families: dict[str, list[str]] = {}
    for worker, page in pages.items():
        family: list[str] = []
        for line in page.decode().splitlines():
            if line.startswith("# HELP "):
                family = families.setdefault(line, [])
            elif not line.startswith("#"):
                family.append(_labelled(line, worker))
            elif line not in family:
                family.append(line)  # its type, behind which the first worker's series follow
    return "".join(f"{line}\n" for header, family in families.items() for line in (header, *family)).encode()


def _labelled(line: str, worker: int) -> str:
    name, brace, rest = line.partition("{")
    if brace and " " not in name:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
