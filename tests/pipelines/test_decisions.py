"""Decisions of the watching stage: one a window and moment, what came of each, and how it is explained later."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from millrace import Retrain
from millrace.cli import main
from millrace.db import DecisionRow, ModelRow
from millrace.errors import BusyError, MillraceError, NoDataError
from millrace.prediction_log import TABLE, log_batch
from millrace.quality import row_log_losses
from pipelines import data, effects, explaining, models, scoring, watching
from pipelines.windows import Outcomes
from pipelines.workspace import Workspace

START = datetime(2024, 1, 20, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY
END = START + WEEK
LATER = END + WEEK
EAGER = Retrain(cooldown=DAY, max_per_month=100, min_new_labels=0, max_growth=0.0, min_coverage=0.0, shadow=14 * DAY)
"""Every pass wants a retrain, and one that starts keeps the others of its day back."""


def with_limits(ws: Workspace, limits: Retrain) -> Workspace:
    return replace(ws, use_case=replace(ws.use_case, retrain=limits))


def last(ws: Workspace) -> DecisionRow:
    return max(ws.db.decisions("taxi"), key=lambda row: row.id)


def promote_copy(ws: Workspace, version: int, *, as_of: datetime) -> ModelRow:
    """The first model registered and promoted again: it scores as the first does."""
    row = ws.db.model("taxi", 1)
    assert row is not None
    new = ModelRow("taxi", version, *(getattr(row, name) for name in ("candidate", "run_id", "bundle", "digest")),
                   as_of, as_of, "challenger", row.quality, row.cost, row.verdict)  # fmt: skip
    ws.db.add_model(new)
    ws.db.set_champion("taxi", version, as_of=as_of, reason="a copy")
    return new


def acted_upon(ws: Workspace) -> DecisionRow:
    """The first decision to retrain of which something came."""
    return next(row for row in ws.db.decisions("taxi", "retrain") if row.outcome)


def retrained(ws: Workspace, version: int, *, as_of: datetime) -> int:
    """A decision to retrain that led to a promotion in place of the first version."""
    number = ws.db.add_decision("taxi", as_of=as_of, action="retrain", reason="r", window=(as_of - WEEK, as_of))
    promote_copy(ws, version, as_of=as_of)
    out = {"run": None, "version": version, "result": "promoted", "reason": "r", "replaced": 1}
    ws.db.settle_decision(number, out | {"predicted_gain": {"mean": 0.004}, "realised_gain": None})
    return number


def test_even_a_decision_to_do_nothing_is_kept_with_its_evidence(ws: Workspace):
    data.ingest(ws, as_of=END)
    scoring.score(ws, start=START, end=END, as_of=END)
    seen = watching.watch(ws, start=START, end=END, as_of=END)
    row = last(ws)
    assert (row.id, row.action, row.window_start, row.window_end) == (seen.decision_id, seen.action, START, END)
    assert row.evidence == json.loads(json.dumps(seen.decision.evidence))
    assert row.evidence["limits"]["cooldown"] == 86_400


def test_a_second_pass_over_the_same_window_adds_nothing_and_says_so(ws: Workspace):
    before = len(ws.db.decisions("taxi"))
    seen = watching.watch(ws, start=START, end=END, as_of=END)
    assert (seen.repeated, seen.decision_id) == (True, last(ws).id)
    assert len(ws.db.decisions("taxi")) == before


def test_two_passes_at_once_are_one(ws: Workspace):
    with ws.db.lease("monitor taxi"), pytest.raises(BusyError, match="already doing this"):
        watching.watch(ws, start=START, end=END, as_of=END)


def test_a_decision_that_was_acted_upon_is_not_acted_upon_again(ws: Workspace):
    eager = with_limits(ws, replace(EAGER, cooldown=timedelta(0)))
    moment = END + HOUR
    first = watching.watch(eager, start=START, end=END, as_of=moment)
    assert first.due
    assert watching.watch(eager, start=START, end=END, as_of=moment).due  # nothing has come of it yet
    training = ws.db.start_run("taxi", "train", moment)
    meanwhile = watching.watch(eager, start=START, end=END, as_of=moment)
    assert (meanwhile.repeated, meanwhile.action, meanwhile.due) == (True, "retrain", False)
    ws.db.end_run(training, "failed")
    done = models.train_and_gate(eager, as_of=moment, why=first.decision.reason)
    settled = watching.acted(eager, first, done)
    assert settled.action in ("promoted", "refused")
    again = watching.watch(eager, start=START, end=END, as_of=moment)
    assert (again.repeated, again.due, again.action) == (True, False, settled.action)
    assert ws.db.windows("taxi")[-1].action == settled.action


def test_what_came_of_a_retrain_stands_in_its_decision(ws: Workspace):
    row = acted_upon(ws)
    run = ws.db.runs("taxi", "train")[0]
    assert (row.outcome["run"], row.outcome["version"], row.outcome["replaced"]) == (run.id, 2, 1)
    model = ws.db.model("taxi", 2)
    assert model is not None
    checks = {one["name"]: one["figures"] for one in model.verdict["checks"]}
    assert row.outcome["predicted_gain"]["mean"] == -checks["champion"]["difference"]["mean"]


def test_an_explanation_takes_the_decision_again(ws: Workspace):
    row = acted_upon(ws)
    told = explaining.explain(ws.db, row.id)
    assert told["again"] == {"same": True}
    assert (told["action"], told["done"]["state"], told["done"]["version"]) == ("retrain", "done", 2)
    assert told["for"]
    assert told["against"] == []
    assert told["seen"]["rows"] == 504
    asked = next(one for one in ws.db.decisions("taxi") if one.version == 2 and one.action in ("promoted", "refused"))
    assert explaining.explain(ws.db, asked.id)["led_by"] == row.id


def test_an_explanation_says_when_today_s_rules_decide_otherwise(ws: Workspace):
    row = acted_upon(ws)
    evidence = row.evidence | {"limits": row.evidence["limits"] | {"min_new_labels": 10**9}}
    number = ws.db.add_decision(
        "taxi", as_of=END, action="retrain", reason=row.reason, evidence=evidence, window=(START - DAY, END)
    )
    again = explaining.explain(ws.db, number)["again"]
    assert (again["same"], again["action"]) == (False, "hold_back")
    number = ws.db.add_decision("taxi", as_of=END, action="alert", reason="r", evidence={}, window=(START - DAY, END))
    assert "cannot be read" in explaining.explain(ws.db, number)["again"]["note"]


def test_a_decision_that_is_not_there_says_where_to_look(ws: Workspace):
    with pytest.raises(NoDataError, match="millrace decisions"):
        explaining.explain(ws.db, 10**6)


def test_the_command_line_lists_and_explains_for_people_and_machines(ws: Workspace, capsys: pytest.CaptureFixture[str]):
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        assert not end.value.code
        return capsys.readouterr().out

    listed = json.loads(told("decisions", "taxi", "--json"))["decisions"]
    assert "nothing" not in {row["action"] for row in listed}
    every = json.loads(told("decisions", "taxi", "--all", "--limit", "1000", "--json"))["decisions"]
    assert {row["id"] for row in every} == {row.id for row in ws.db.decisions("taxi")}
    assert [row["as_of"] for row in every] == sorted((row["as_of"] for row in every), reverse=True)
    number = next(row["id"] for row in listed if row["action"] == "retrain" and row["came_to"])
    assert json.loads(told("explain", str(number), "--json"))["again"] == {"same": True}
    assert "predicted" in told("explain", str(number))
    assert "retrain" in told("decisions", "taxi")


def test_what_a_new_champion_gained_is_what_pencil_and_paper_give(ws: Workspace):
    number = retrained(ws, 3, as_of=END)
    data.ingest(ws, as_of=LATER)
    scored = scoring.with_features(ws, start=END, end=LATER, as_of=LATER)
    first = scoring.score_with(ws, scored, 1)
    better = first.with_columns(version=pl.lit(3, pl.Int64), score=pl.col("score") * 0.9, served_at=pl.lit(LATER))
    log_batch(ws.lake, better, batch="better", features=[*scoring.bundle_of(ws, 1).contract.names, "zone"])
    effects.measure(ws, Outcomes.read(ws, LATER))
    row = ws.db.decision(number)
    assert row is not None
    gain = row.outcome["realised_gain"]
    late = ws.lake.scan("raw/done").filter(pl.col("known_at") <= LATER).select("trip", "late").collect()
    both = first.join(late, on="trip", how="inner", maintain_order="left")
    y, p = both["late"].to_numpy().astype(float), both["score"].to_numpy()
    by_hand = row_log_losses(y, p) - row_log_losses(y, p * 0.9)
    assert gain["mean"] == pytest.approx(float(np.mean(by_hand)), abs=1e-12)
    assert (gain["compared"], gain["rows"], gain["final"]) == (both.height, 504, False)  # a day of 14 is open
    assert gain["low"] < gain["mean"] < gain["high"]


def test_a_gain_is_settled_when_its_time_is_over_and_its_labels_are_there(ws: Workspace):
    shorter = with_limits(ws, replace(EAGER, shadow=WEEK))
    effects.measure(shorter, Outcomes.read(ws, LATER))
    (effect,) = effects.settled(ws.db.decisions("taxi"), LATER)
    row = ws.db.decision(effect.decision)
    assert row is not None
    assert (effect.version, effect.predicted, effect.realised) == (3, 0.004, row.outcome["realised_gain"]["mean"])
    assert effects.measure(shorter, Outcomes.read(ws, LATER)) == 0
    assert effects.settled(ws.db.decisions("taxi"), END) == ()  # nobody knew it then


def test_retrains_that_brought_nothing_stop_until_a_person_resumes(ws: Workspace):
    for number, version in ((1, 4), (2, 5)):
        decision = retrained(ws, version, as_of=LATER + number * HOUR)
        row = ws.db.decision(decision)
        assert row is not None
        ws.db.settle_decision(decision, row.outcome | {"realised_gain": {"mean": -0.001, "final": True}})
    moment = LATER + DAY
    eager = with_limits(ws, EAGER)
    called = watching.watch(eager, start=END, end=LATER, as_of=moment)
    assert (called.action, called.decision.severity, called.due) == ("page", "critical", False)
    assert watching.watch(eager, start=END, end=LATER, as_of=moment + HOUR).action == "hold_back"
    with pytest.raises(MillraceError, match="needs a reason"):
        explaining.resume(ws.db, "taxi", as_of=moment, why=" ")
    explaining.resume(ws.db, "taxi", as_of=moment + HOUR, why="The source was mended.")
    after = watching.watch(eager, start=END, end=LATER, as_of=moment + 2 * HOUR)
    assert "brought nothing" not in after.reason
    with pytest.raises(MillraceError, match="not stopped"):
        explaining.resume(ws.db, "taxi", as_of=moment, why="again")


def test_a_storm_of_hourly_passes_starts_one_retrain_and_logs_the_rest_as_held_back(ws: Workspace):
    hourly = with_limits(ws, EAGER)
    begin = LATER + 10 * DAY  # long after the retrains above
    data.ingest(hourly, as_of=begin)
    scoring.score(hourly, start=begin - 2 * DAY, end=begin, as_of=begin)
    actions = []
    for hour in range(24):
        end = begin - (23 - hour) * HOUR
        actions.append(watching.watch(hourly, start=end - HOUR, end=end, as_of=end).action)
    assert actions == ["retrain"] + ["hold_back"] * 23
    assert "cool-down 1 day" in last(ws).reason


def test_a_pass_restates_earlier_windows_that_new_labels_touch(ws: Workspace):
    before = next(row for row in ws.db.windows("taxi") if row.end == LATER + 10 * DAY)
    assert before.labelled < before.rows
    moment = LATER + 11 * DAY
    data.ingest(ws, as_of=moment)
    scoring.score(ws, start=before.end, end=moment, as_of=moment)
    seen = watching.watch(ws, start=before.end, end=moment, as_of=moment)
    after = next(row for row in ws.db.windows("taxi") if row.end == before.end)
    assert seen.restated > 0
    assert (after.labelled, after.as_of) == (before.rows, moment)
    assert after.metrics["first_seen"]["labelled"] == before.labelled
    assert (after.action, after.reason) == (before.action, before.reason)


def test_a_replaced_model_that_takes_more_than_the_log_keeps_is_not_compared(ws: Workspace, monkeypatch):
    number = retrained(ws, 6, as_of=LATER + 11 * DAY)
    bundle = scoring.bundle_of(ws, 1)
    inputs = tuple(one for one in bundle.contract.inputs if one.name != "zone_late")
    fewer = SimpleNamespace(contract=replace(bundle.contract, inputs=inputs))
    monkeypatch.setattr(effects, "bundle_of", lambda ws, version: fewer if version == 6 else bundle)
    effects.measure(ws, Outcomes.read(ws, LATER + 12 * DAY))
    row = ws.db.decision(number)
    assert row is not None
    assert row.outcome["realised_gain"]["final"]
    assert "takes zone_late" in row.outcome["realised_gain"]["note"]


def test_what_was_odd_about_the_labels_is_in_the_run(ws: Workspace):
    odd = {"unknown_labels", "disputed_labels", "corrected_labels", "contradictory_labels"}
    assert odd <= set(ws.db.runs("taxi", "monitor")[0].detail)
    assert ws.lake.exists(TABLE)
