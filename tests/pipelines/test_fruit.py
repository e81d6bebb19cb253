"""A use case of three classes whose inputs, an array among them, all come with the request: its life in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from features.training_set import training_set
from millrace.bundle import Contract, write_bundle
from millrace.cli import main
from millrace.db import ModelRow
from millrace.errors import RequestError, UseCaseError
from millrace.inputs import describe_inputs
from millrace.keys import signing_key
from millrace.prediction_log import PREDICTED, TABLE, PredictionLog, log_folder
from millrace.quality import quality
from millrace.telemetry import Metrics
from pipelines import data, scoring, status, watching
from pipelines.workspace import Workspace, open_workspace
from serving.online.model import open_model
from training.export import export
from training.fit import fit

CASES = Path(__file__).parent / "cases"
START = datetime(2024, 1, 20, tzinfo=UTC)
END = START + timedelta(days=7)
ROW = {"weighing": "W9", "spectrum": [0.1, 0.2, 1.3, 0.4], "shop": "S1", "organic": True}


def first_champion(ws: Workspace) -> None:
    """Fit, export, bundle and let serve; without MLflow and without measuring, which this module does not ask about."""
    use_case, settings = ws.use_case, ws.settings
    rows = training_set(use_case, settings, ws.lake, since=START - timedelta(days=365), until=START, as_of=START)
    inputs = describe_inputs(rows.frame, rows.features)
    contract = Contract("fruit", use_case.question, "logistic", "onnx", inputs, START, classes=use_case.label.classes)
    X, y = contract.encode_frame(rows.frame), rows.frame["label"].to_numpy()
    model = fit(use_case.candidates[0], contract.model_inputs, X, y, classes=3).model
    exported = export("logistic", model, inputs, X, classes=3)
    scores = exported.engine.predict(X)
    bundle = write_bundle(
        settings.bundles / "fruit" / "1",
        contract=contract,
        model=exported.model,
        reference=rows.frame.with_columns(
            pl.Series("score", scores.max(axis=1)),
            pl.Series(PREDICTED, [contract.classes[code] for code in scores.argmax(axis=1)]),
        ),
        key=signing_key(settings),
    )
    ws.db.add_model(
        ModelRow(
            "fruit", 1, "logistic", "run", str(bundle.folder), bundle.digest, START, START, "challenger",
            quality=quality(y, scores).to_dict(),
        )
    )  # fmt: skip
    ws.db.set_champion("fruit", 1, as_of=START, reason="The first one.")


@pytest.fixture(scope="module")
def fruit_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform on which the use case was ingested and has a champion as of START."""
    home = tmp_path_factory.mktemp("fruit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_USE_CASES", str(CASES))
        with open_workspace("fruit", home) as ws:
            data.ingest(ws, as_of=START)
            first_champion(ws)
    return home


@pytest.fixture
def ws(fruit_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """That platform, open, and named by the environment."""
    monkeypatch.setenv("MILLRACE_USE_CASES", str(CASES))
    monkeypatch.setenv("MILLRACE_HOME", str(fruit_home))
    with open_workspace("fruit") as workspace:
        yield workspace


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and the last line of standard error of one command."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err.strip().splitlines()[-1] if err.strip() else ""


def test_arrays_are_ingested_once_and_nothing_is_materialized(ws: Workspace) -> None:
    assert ws.lake.scan("raw/scale").collect_schema()["spectrum"] == pl.List(pl.Float64)
    assert data.ingest(ws, as_of=START).rows == 0
    assert data.materialize(ws, as_of=START).views == ()
    assert ws.db.runs("fruit", "materialize") == []


def test_a_row_is_predicted_with_its_class_and_all_probabilities(ws: Workspace) -> None:
    (row,) = status.predict(ws, [ROW], at=START)["predictions"]
    assert row["label"] == "quince"
    assert row["score"] == max(row["scores"].values())
    assert sum(row["scores"].values()) == pytest.approx(1)
    assert row["features"] == {name: ROW[name] for name in ("spectrum", "shop", "organic")}


def test_a_row_with_a_wrong_array_is_refused_by_its_name(ws: Workspace) -> None:
    with pytest.raises(RequestError) as refused:
        status.predict(ws, [ROW | {"spectrum": [0.1]}], at=START)
    assert refused.value.field == "rows[0].spectrum"


def test_a_stretch_is_scored_once_with_its_classes(ws: Workspace, tmp_path: Path) -> None:
    data.ingest(ws, as_of=END)
    output = tmp_path / "scores.parquet"
    first = scoring.score(ws, start=START, end=END, as_of=END, shadow=1, output=output)
    again = scoring.score(ws, start=START, end=END, as_of=END, shadow=1)
    assert (first.rows, first.logged, again.logged) == (168, 168, 0)
    scores = pl.read_parquet(output)
    each = scores.select("score_apple", "score_pear", "score_quince")
    assert scores["score"].to_list() == each.max_horizontal().to_list()
    logged = ws.lake.scan(TABLE).collect()
    assert logged[PREDICTED].to_list() == scores[PREDICTED].to_list()
    assert logged.schema["spectrum"] == pl.List(pl.Float32)
    assert not {"score_apple", "weighing"} & set(logged.columns)


def test_a_batch_scores_as_the_server_does(ws: Workspace) -> None:
    rows = scoring.with_features(ws, start=START, end=START + timedelta(days=1), as_of=END)
    offline = scoring.score_with(ws, rows, 1)
    asked = rows.select("weighing", "spectrum", "shop", "organic").to_dicts()
    answers = status.predict(ws, asked, at=START)["predictions"]
    assert [answer["label"] for answer in answers] == offline[PREDICTED].to_list()
    assert [answer["score"] for answer in answers] == pytest.approx(offline["score"].to_list(), abs=1e-9)
    assert [answer["scores"]["pear"] for answer in answers] == pytest.approx(offline["score_pear"].to_list(), abs=1e-9)


def test_a_window_is_watched_by_the_share_of_right_classes(ws: Workspace) -> None:
    seen = watching.watch(ws, start=START, end=END, as_of=END)
    logged = ws.lake.scan(TABLE).select("row_key", PREDICTED).collect()
    known = ws.lake.scan("raw/till").select(row_key="weighing", fruit="fruit").collect()
    right = logged.join(known, on="row_key").select((pl.col(PREDICTED) == pl.col("fruit")).mean()).item()
    metrics = ws.db.windows("fruit")[-1].metrics
    assert metrics["accuracy_live"] == metrics["accuracy_static"] == pytest.approx(right)
    assert metrics["log_loss_static"] is None  # two models' losses are of two events
    assert seen.result.gain is not None
    assert seen.result.gain.mean == 0
    assert {"spectrum mean", "spectrum spread"} <= {column.name for column in seen.result.drift.columns}


def test_what_the_server_logged_is_watched_beside_the_batch(ws: Workspace) -> None:
    at, log = START + timedelta(days=1), PredictionLog(log_folder(ws.settings, "fruit"))
    champion = ws.db.champion("fruit")
    assert champion is not None
    model = open_model(champion, ws.use_case, ws.settings, clock=lambda: at, metrics=Metrics(), log=log)
    rows = scoring.with_features(ws, start=START, end=at, as_of=END).select("weighing", "spectrum", "shop", "organic")
    model.score([model.decoder.decode(json.dumps({"rows": rows.to_dicts()}).encode())])
    log.close()
    seen = watching.watch(ws, start=START, end=END, as_of=END).result
    online = ws.lake.scan(TABLE).filter(pl.col("channel") == "online").collect()
    assert online[PREDICTED].null_count() == 0
    assert (online.height, seen.repeated, seen.rows, seen.data_quality.problems) == (24, 24, 168, ())


def test_restating_measures_with_later_labels(ws: Workspace) -> None:
    first = ws.db.windows("fruit")[0]
    data.ingest(ws, as_of=END + timedelta(days=1))
    watching.restate(ws, as_of=END + timedelta(days=1))
    restated = ws.db.windows("fruit")[0]
    assert restated.labelled == 168 > first.labelled
    figures = {name: value for name, value in first.metrics.items() if name != "watched"}
    assert restated.metrics["first_seen"] == figures | {"labelled": 167, "as_of": END.isoformat()}


def test_versions_whose_classes_differ_are_scored_side_by_side(ws: Workspace) -> None:
    bundle, classes = scoring.bundle_of(ws, 1), ("apple", "pear", "medlar")
    renamed = write_bundle(
        ws.settings.bundles / "fruit" / "2",
        contract=replace(bundle.contract, classes=classes),
        model=bundle.model(),
        reference=bundle.reference(),
        key=signing_key(ws.settings),
    )
    row = ModelRow("fruit", 2, "logistic", "run", str(renamed.folder), renamed.digest, START, START, "challenger")
    ws.db.add_model(row)
    ws.db.set_champion("fruit", 2, as_of=END, reason="To see it.")
    try:
        done = scoring.score(
            ws,
            start=END - timedelta(hours=6),
            end=END + timedelta(hours=6),
            as_of=END + timedelta(days=1),
            output=ws.settings.home / "both.parquet",
        )
    finally:
        ws.db.set_champion("fruit", 1, as_of=END + timedelta(hours=6), reason="Back.")
    scores = pl.read_parquet(ws.settings.home / "both.parquet")
    assert done.versions == (1, 2)
    assert scores["score_quince"].is_not_null().to_list() == (scores["version"] == 1).to_list()
    assert scores["score_medlar"].is_not_null().to_list() == (scores["version"] == 2).to_list()
    assert set(scores.filter(pl.col("version") == 2)[PREDICTED]) <= set(classes)


def test_status_tells_of_no_views(ws: Workspace) -> None:
    shown = status.status(ws, as_of=END)
    assert "views" not in shown
    assert shown["last_window"]["accuracy_live"] > 0.8


@pytest.mark.parametrize(
    "command",
    [
        ["features", "status", "fruit"],
        ["features", "parity", "fruit"],
        ["features", "repo", "fruit"],
        ["trace", "feature", "fruit", "recent:delay", "--key", "zone=Z1"],
    ],
)
def test_a_command_of_the_feature_store_says_that_there_is_none(
    ws: Workspace, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, _, said = run(capsys, *command, "--json")
    assert code == UseCaseError.exit_code
    assert json.loads(said)["what"] == "The use case 'fruit' has no feature store: its inputs come with each row."
    assert "request_features are spectrum, shop, organic" in json.loads(said)["looked"]


def test_a_push_finds_no_view(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, "push", "fruit", "recent", '{"zone": "Z1"}', "--json")
    assert code != 0
    assert "no online feature view" in json.loads(said)["what"]


def test_the_command_materialize_has_nothing_to_do(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "materialize", "fruit", "--as-of", "2024-01-20", "--json")
    assert (code, json.loads(out)["views"]) == (0, [])


def test_the_command_predict_takes_an_array(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "predict", "fruit", json.dumps(ROW), "--as-of", "2024-01-20", "--json")
    assert (code, json.loads(out)["predictions"][0]["label"]) == (0, "quince")
