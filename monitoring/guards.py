"""What forbids a retrain that something speaks for: a sentence for each guard that does.

A pure function of the evidence and the use case's limits; what speaks for a retrain is `monitoring.decide`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from millrace.usecase import Retrain
from monitoring.data_quality import describe
from monitoring.evidence import Effect, Evidence

MONTH = timedelta(days=30)
"""The stretch before `as_of` in which `Retrain.max_per_month` counts."""


def obstacles(retrain: Retrain, evidence: Evidence) -> list[str]:
    """Every guard that forbids a retrain now, the weightiest first; none: it may start."""
    return [
        *stopped(retrain, evidence),
        *wrong_data(evidence),
        *_immature(retrain, evidence),
        *_too_soon(retrain, evidence),
    ]


def stopped(retrain: Retrain, evidence: Evidence) -> list[str]:
    """That the last retrains brought nothing, so that a person shall look before there is another."""
    last = evidence.effects[-retrain.stop_after :] if retrain.stop_after > 0 else ()
    if not last or len(last) < retrain.stop_after or any(one.realised > 0 for one in last):
        return []
    what = "The last retrain" if len(last) == 1 else f"The last {len(last)} retrains in a row"
    brought = _brought(last, evidence.top_label)
    return [f"{what} brought nothing ({brought}): no other one is started until a person resumes (millrace resume)."]


def wrong_data(evidence: Evidence) -> list[str]:
    """That there is no data, or none to be trusted."""
    if not evidence.rows:
        return [f"There are no predictions from {evidence.start:%Y-%m-%d %H:%M} to {evidence.end:%Y-%m-%d %H:%M} UTC."]
    if evidence.data_problems:
        return [f"The window's data cannot be trusted: {describe(evidence.data_problems)}."]
    return []


def days(span: timedelta) -> str:
    """A length of time in whole days, in hours below one."""
    if timedelta(0) < span < timedelta(days=1):
        hours = int(span.total_seconds() // 3600)
        return f"{hours} hour{'' if hours == 1 else 's'}"
    return f"{span.days} day{'' if span.days == 1 else 's'}"


def _immature(retrain: Retrain, evidence: Evidence) -> list[str]:
    """Too few labels in the window, or since the last training."""
    found = []
    if evidence.rows and evidence.coverage < retrain.min_coverage and not retrain.even_immature:
        found.append(
            f"The window is immature: labels are known for {evidence.coverage:.0%} of its {evidence.rows:,} rows "
            f"({retrain.min_coverage:.0%} are needed)."
        )
    if evidence.new_labels < retrain.min_new_labels:
        found.append(
            f"Only {evidence.new_labels:,} labels are new since the last training "
            f"({retrain.min_new_labels:,} are needed)."
        )
    return found


def _too_soon(retrain: Retrain, evidence: Evidence) -> list[str]:
    """Another training runs, or has run too lately or too often."""
    found = []
    if evidence.training is not None:
        found.append(f"A training is running already (run {evidence.training}).")
    last = evidence.last_training
    if evidence.as_of - last < retrain.cooldown:
        found.append(
            f"The last training was on {last:%Y-%m-%d}, {days(evidence.as_of - last)} ago "
            f"(cool-down {days(retrain.cooldown)})."
        )
    recent = sum(timedelta(0) <= evidence.as_of - moment < MONTH for moment in evidence.retrained_at)
    if recent >= retrain.max_per_month:
        found.append(f"{recent} retrains in the last {MONTH.days} days (at most {retrain.max_per_month}).")
    return found


def _brought(effects: Sequence[Effect], top_label: bool) -> str:
    unit = "of the rows right" if top_label else "nats"
    return ", ".join(f"version {one.version}: {one.realised:+.4f} {unit}" for one in effects)
