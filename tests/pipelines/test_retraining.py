"""A decision to retrain is acted upon once, and only while it stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from millrace.errors import BusyError, MillraceError
from millrace.settings import Settings
from pipelines import data, scoring
from pipelines.flows import monitor_flow, retrain_flow
from pipelines.retraining import outstanding, retrain
from pipelines.workspace import Workspace, open_workspace

AS_OF = datetime(2024, 1, 27, tzinfo=UTC)


def decide(ws: Workspace, as_of: datetime = AS_OF, action: str = "retrain") -> int:
    ws.db.add_decision("taxi", as_of=as_of, action=action, reason="It has drifted.")
    return ws.db.decisions("taxi")[-1].id


def trained(ws: Workspace, as_of: datetime, state: str = "done") -> None:
    ws.db.end_run(ws.db.start_run("taxi", "train", as_of), state)


@pytest.fixture
def empty(environment: Settings):
    with open_workspace("taxi") as ws:
        yield ws


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=1)])
def test_a_decision_that_a_training_has_answered_is_done(empty: Workspace, later: timedelta) -> None:
    number = decide(empty)
    trained(empty, AS_OF + later)
    found = retrain(empty, number)
    assert (found.action, found.training) == ("not done", None)
    assert found.reason.startswith("It is done: there was a training as of 2024-01-2")


def test_a_later_decision_takes_the_place_of_an_earlier_one(empty: Workspace) -> None:
    first = decide(empty)
    decide(empty, AS_OF + timedelta(days=7))
    assert "has taken its place" in retrain(empty, first).reason


def test_while_another_process_retrains_it_is_left_to_it(empty: Workspace) -> None:
    number = decide(empty)
    with empty.db.lease("retrain taxi"), pytest.raises(BusyError):
        retrain(empty, number)
    with empty.db.lease("retrain taxi"):
        assert retrain_flow.fn("taxi", str(number))["reason"].startswith("Another process is training.")


@pytest.mark.parametrize("number", ["", "two", "-1", "1.5"])
def test_what_is_no_number_of_a_decision_is_refused(empty: Workspace, number: str) -> None:
    with pytest.raises(MillraceError, match="no decision's number"):
        retrain_flow.fn("taxi", number)


def test_a_decision_that_is_not_there_or_was_another_is_refused(empty: Workspace) -> None:
    held = decide(empty, action="hold_back")
    for number in (held, 99):
        with pytest.raises(MillraceError, match=f"taxi has no decision {number} to retrain"):
            retrain(empty, number)


def test_the_newest_decision_that_nobody_acted_on_is_outstanding(empty: Workspace) -> None:
    assert outstanding(empty, AS_OF) is None
    numbers = [decide(empty), decide(empty)]
    later = AS_OF + timedelta(days=1)
    decide(empty, later + timedelta(days=1))
    found = outstanding(empty, later)
    assert found is not None
    assert found.id == numbers[-1]


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_decision_that_somebody_acted_on_is_not_outstanding(empty: Workspace, state: str) -> None:
    decide(empty)
    trained(empty, AS_OF, state)
    assert outstanding(empty, AS_OF) is None


def test_a_decision_whose_event_was_lost_is_acted_upon_by_the_next_pass(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.ingest(ws, as_of=AS_OF)
    scoring.score(ws, start=AS_OF - timedelta(days=7), end=AS_OF, as_of=AS_OF)
    sent: list[str] = []
    monkeypatch.setattr("pipelines.flows.emit", lambda use_case, event, **_: sent.append(event) or True)
    assert monitor_flow.fn("taxi", AS_OF, hand_over=True)["handed_over"]
    seen = monitor_flow.fn("taxi", AS_OF + timedelta(hours=1), hand_over=True)
    assert sent == ["retrain"]  # the later pass hands nothing over
    assert seen["late"]["action"] in {"promoted", "refused"}
    assert ws.db.runs("taxi", "train")[0].as_of == AS_OF
    assert retrain_flow.fn("taxi", str(seen["late"]["decision_id"]))["action"] == "not done"
