"""The metrics: each named once, in a registry of its own."""

from __future__ import annotations

from millrace.telemetry import CONTENT_TYPE, Metrics


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
