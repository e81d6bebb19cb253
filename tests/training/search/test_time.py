"""A search keeps its time: it stops within a trial, goes on from there later, and never leaves a training without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from math import isnan
from typing import Any

import pytest

from millrace import Candidate, Real
from millrace.errors import TrainingError
from training.fit import fit
from training.search import Found

Find = Callable[..., Found]


def states(found: Found) -> list[str]:
    """What came of each trial."""
    return [one.state for one in found.trials]


class Clock:
    """A clock that tells what it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The search's clock."""
    clock = Clock()
    monkeypatch.setattr("training.search.run.perf_counter", clock)
    return clock


@pytest.fixture
def slow(clock: Clock, slope: Any) -> Candidate:
    """A curve whose fit takes ten seconds."""

    def heard(model: Any) -> None:
        clock.now += 0 if len(model.scored) else 10

    return Candidate("curve", lambda inputs, s: slope(s, heard), search={"s": Real(0.01, 10, default=0.05, log=True)})


def test_the_time_ends_it_within_a_trial_and_what_was_done_counts(find: Find, slow: Candidate) -> None:
    found = find(slow, 5, timeout=timedelta(seconds=45))
    assert (states(found), found.stopped) == (["complete"], "the time was up")
    assert found.params == {"s": 0.05}
    assert found.trials[0].seconds == 30


def test_after_the_time_it_goes_on_as_if_it_had_not_been_stopped(find: Find, slow: Candidate) -> None:
    find(slow, 3, timeout=timedelta(seconds=45))
    stopped, through = find(slow, 3), find(slow, 3, resume=False)
    assert [one.params for one in stopped.trials] == [one.params for one in through.trials]


def test_too_short_a_time_leaves_the_declared_parameters(find: Find, slow: Candidate) -> None:
    found = find(slow, 5, timeout=timedelta(seconds=15))
    assert found.params == {"s": 0.05}
    assert isnan(found.log_loss)
    assert found.trials == ()
    assert found.stopped == "the time was up before one trial was complete"


def test_a_fit_may_take_what_is_left_of_the_time_and_is_no_failure_then(
    find: Find, slow: Candidate, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def fit_until_the_limit(candidate: Candidate, *given: Any, **named: Any) -> Any:
        limits.append(candidate.timeout.total_seconds())
        if limits[-1] < 10:
            clock.now += limits[-1]
            raise TrainingError("It was not fitted in time.")
        return fit(candidate, *given, **named)

    monkeypatch.setattr("training.search.run.fit", fit_until_the_limit)
    found = find(replace(slow, timeout=timedelta(seconds=24)), 5, timeout=timedelta(seconds=45))
    assert limits == [24, 24, 24, 15, 5]
    assert (states(found), found.stopped) == (["complete"], "the time was up")


def test_a_trial_that_takes_longer_than_a_fit_may_has_failed(find: Find, slope: Any) -> None:
    def heard(model: Any) -> None:
        while model.slope > 1 and not len(model.scored):
            pass

    space = {"s": (9.0, 1.0)}
    found = find(Candidate("curve", lambda inputs, s: slope(s, heard), search=space, timeout=timedelta(seconds=0.1)))
    assert states(found) == ["failed", "complete"]
    assert "was not fitted within 0.1 s" in found.trials[0].reason


@pytest.mark.parametrize("given", [{"trials": -1}, {"timeout": timedelta(0)}, {"timeout": timedelta(seconds=-3)}])
def test_impossible_limits_are_refused(find: Find, candidate: Candidate, given: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="trials of 0 or more and a time above 0"):
        find(candidate, **given)
