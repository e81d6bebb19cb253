"""The best trial is a complete one, and a search is recorded as plain JSON."""

from __future__ import annotations

import json
from math import isnan, nan

from training.search import Found, Trial
from training.search.trials import best

FAILED = Trial({"s": 1.0}, "failed", (), "broke", 1.0)
PRUNED = Trial({"s": 2.0}, "pruned", (0.1,), "worse", 1.0)


def complete(*losses: float) -> Trial:
    """A trial that was watched on every fold."""
    return Trial({"s": 3.0, "shape": (8, 8)}, "complete", losses, "", 1.23456)


def test_the_best_is_complete_and_the_first_of_equals() -> None:
    first, second = complete(0.5, 0.5), complete(0.4, 0.6)
    assert best([FAILED, PRUNED, complete(0.6), first, second]) is first
    assert best([FAILED, PRUNED]) is None


def test_a_trial_that_was_not_watched_on_every_fold_has_no_loss() -> None:
    assert isnan(FAILED.log_loss)
    assert isnan(PRUNED.log_loss)


def test_its_record_is_plain_json() -> None:
    trial = complete(0.5, 0.7)
    record = Found(trial.params, trial.log_loss, (FAILED, PRUNED, trial), "3 trials were done").to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["params"], record["log_loss"]) == ({"s": 3.0, "shape": "(8, 8)"}, 0.6)
    assert [one["state"] for one in record["trials"]] == ["failed", "pruned", "complete"]
    assert (record["trials"][2]["losses"], record["trials"][2]["seconds"]) == ([0.5, 0.7], 1.235)


def test_a_search_without_a_complete_trial_has_no_loss_in_its_record() -> None:
    assert Found({"s": nan}, nan, (), "the time was up").to_dict() == {
        "params": {"s": "nan"},
        "log_loss": None,
        "stopped": "the time was up",
        "trials": [],
    }
