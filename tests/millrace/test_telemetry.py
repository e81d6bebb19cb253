"""The metrics: each named once, in a registry of its own."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from millrace.telemetry import CONTENT_TYPE, Metrics, merge


def test_every_metric_is_ours_by_name_and_says_what_it_counts() -> None:
    families = list(Metrics().registry.collect())
    assert all(family.name.startswith("millrace_") and family.documentation.endswith(".") for family in families)
    assert len({family.name for family in families}) == len(families)


def test_two_in_one_process_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.predictions.labels("late", "1").inc()
    assert b'millrace_predictions_total{use_case="late",version="1"} 1.0' in one.render()
    assert b"version=" not in other.render()
    assert CONTENT_TYPE.startswith("text/plain")


def test_pages_of_several_workers_are_one_with_a_worker_in_each_series() -> None:
    pages: dict[int, bytes] = {}
    for worker in (0, 1):
        metrics = Metrics()
        metrics.requests.labels("/a {b}", 200).inc(worker + 1)
        if worker:
            metrics.shed.labels("late", "queue").inc()
        pages[worker] = metrics.render()
    families = {family.name: family for family in text_string_to_metric_families(merge(pages).decode())}
    counted = {
        (sample.labels["worker"], sample.labels["route"]): sample.value
        for sample in families["millrace_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counted == {("0", "/a {b}"): 1, ("1", "/a {b}"): 2}
    assert {sample.labels["worker"] for sample in families["millrace_shed"].samples} == {"1"}
    assert merge(pages).count(b"# TYPE millrace_requests_total ") == 1
