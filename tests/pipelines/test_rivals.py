"""Naive policies at work beside the loop: what they train, what serves, and that the loop hears nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from millrace import Budget, at_least
from millrace.errors import MillraceError
from millrace.registry import champion
from pipelines import data, models, scoring
from pipelines.policies import LOOP
from pipelines.rivals import Rivals, check_comparable
from pipelines.scoring import bundle_of
from pipelines.workspace import Workspace, open_workspace

CASES = Path(__file__).parent / "cases"
START = datetime(2024, 1, 20, tzinfo=UTC)
WEEK = timedelta(days=7)
CUTS = [START, START + WEEK, START + 2 * WEEK]


@pytest.fixture(scope="module")
def platform(champion_home: Path) -> Iterator[Workspace]:
    """The tiny use case, without a budget to miss, with two weeks ingested and scored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        with open_workspace("taxi", champion_home) as opened:
            ws = replace(opened, use_case=replace(opened.use_case, budget=Budget()))
            for start, end in pairwise(CUTS):
                data.ingest(ws, as_of=end)
                scoring.score(ws, start=start, end=end, as_of=end)
            yield ws


@pytest.fixture(scope="module")
def rivals(platform: Workspace) -> Rivals:
    """Three policies after two weeks, with a training of the weekly one between them."""
    found = Rivals(platform, ("never", "monthly", "weekly"), bundle_of(platform, 1))
    found.score(CUTS[0], CUTS[1])
    found.train(1, CUTS[1])
    found.score(CUTS[1], CUTS[2])
    return found


def test_a_policy_trains_when_its_calendar_says_so(rivals: Rivals) -> None:
    assert rivals.trainings == {"never": 0, "monthly": 0, "weekly": 1}


def test_its_new_model_serves_at_once(rivals: Rivals) -> None:
    assert rivals.serving["weekly"].contract.trained_as_of == CUTS[1]
    assert rivals.serving["never"] is rivals.serving["monthly"]


def test_the_loop_hears_nothing_of_it(rivals: Rivals) -> None:
    db = rivals.ws.db
    assert [row.version for row in db.models("taxi")] == [champion(db, "taxi").version] == [1]
    assert len(db.runs("taxi", "train")) == 1


def test_never_scores_as_the_first_champion_does_while_that_serves(rivals: Rivals) -> None:
    found = {one.policy: one for one in rivals.standings(CUTS[2])}
    assert found["never"].log_loss == pytest.approx(found[LOOP].log_loss, abs=1e-7)
    assert found["weekly"].log_loss != found["never"].log_loss


def test_all_are_compared_on_every_labelled_row(rivals: Rivals) -> None:
    rows = {one.rows for one in rivals.standings(CUTS[2])}
    assert len(rows) == 1
    assert 990 < rows.pop() <= 2 * 504


def test_a_model_that_misses_its_budget_does_not_serve(platform: Workspace) -> None:
    strict = replace(platform.use_case, budget=Budget(at_least(roc_auc=0.99)))
    found = Rivals(replace(platform, use_case=strict), ("never", "weekly"), bundle_of(platform, 1))
    found.train(1, CUTS[1])
    assert found.serving["weekly"] is found.first
    assert (found.trainings["weekly"], found.models["weekly"]) == (1, 0)


def test_what_the_loop_trained_at_that_moment_is_not_trained_again(platform: Workspace) -> None:
    done = models.train_and_gate(platform, as_of=CUTS[2])
    found = Rivals(platform, ("never", "weekly"), bundle_of(platform, 1))
    found.train(2, CUTS[2])
    assert found.serving["weekly"].folder == bundle_of(platform, done.outcome.version.version).folder


def test_classes_cannot_be_compared_by_log_loss(platform: Workspace) -> None:
    label = replace(platform.use_case.label, classes=("a", "b", "c"))
    with pytest.raises(MillraceError, match="its label has classes"):
        check_comparable(replace(platform.use_case, label=label), ("never",))
