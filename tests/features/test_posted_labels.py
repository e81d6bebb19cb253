"""Training sets and what clients posted: one more source of labels, known from its own time on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from returns import DAY, LEAD, START, Place

from features.repo import apply
from features.tables import build_tables
from features.training_set import training_rows, training_set
from millrace.lake import Lake
from millrace.outcome_log import Outcome, OutcomeLog, ship
from millrace.prediction_log import Prediction, PredictionLog, microseconds
from millrace.prediction_log import ship as ship_predictions

END = START + 9 * DAY
HOUR = timedelta(hours=1)


@pytest.fixture
def ingested(place: Place) -> Place:
    place.ingest(END)
    return place


def said(place: Place, *outcomes: Outcome) -> None:
    path = Path(place.settings.home) / "outcomes.db"
    log = OutcomeLog(path)
    log.append(outcomes, received_at=END)
    log.close()
    ship(path, place.lake)


def learned(place: Place, *orders: str, as_of: object = END) -> list[tuple[object, ...]]:
    """Order, label and since when it is known, of these orders in the training rows."""
    rows, _ = training_rows(place.use_case, place.lake, since=START - DAY, until=END, as_of=as_of)  # type: ignore[arg-type]
    return rows.filter(pl.col("order_id").is_in(orders)).select("order_id", "label", "label_known_at").rows()


def logged(lake: Lake, home: Path, name: str, row_key: str) -> None:
    log, at = PredictionLog(home / "log"), microseconds(START)
    log.append({}, [Prediction(name, 1, at, at, row_key, "", 0.5, [])])
    log.close()
    ship_predictions(home / "log", lake)


def test_a_row_that_its_source_has_no_outcome_of_is_learned_from_once_somebody_posts_it(ingested: Place) -> None:
    assert learned(ingested, "o0600") == []
    said(ingested, Outcome("1", END - HOUR, row_key="o0600"))
    assert learned(ingested, "o0600") == [("o0600", 1, END - HOUR)]
    assert learned(ingested, "o0600", as_of=END - 2 * HOUR) == []


def test_whichever_was_known_last_holds(ingested: Place) -> None:
    ((_, label, known_at),) = learned(ingested, "o0003")
    other = str(1 - label)
    said(ingested, Outcome(other, known_at - HOUR, row_key="o0003"))
    assert learned(ingested, "o0003") == [("o0003", label, known_at)]
    said(ingested, Outcome(other, known_at + HOUR, row_key="o0003"))
    assert learned(ingested, "o0003") == [("o0003", 1 - label, known_at + HOUR)]
    assert learned(ingested, "o0003", as_of=known_at) == [("o0003", label, known_at)]


def test_a_row_is_found_by_what_was_predicted_of_it(ingested: Place, tmp_path: Path) -> None:
    logged(ingested.lake, tmp_path, "p", "o0600")
    said(ingested, Outcome("0", END, prediction_id="p"), Outcome("0", END, prediction_id="unknown"))
    assert learned(ingested, "o0600") == [("o0600", 0, END)]


def test_a_label_for_one_instant_is_for_the_row_that_is_predicted_then(ingested: Place) -> None:
    moment = START + 600 * timedelta(minutes=20) - LEAD
    said(ingested, Outcome("1", END, row_key="o0600", at=moment + HOUR))
    assert learned(ingested, "o0600") == []
    said(ingested, Outcome("1", END, row_key="o0600", at=moment))
    assert learned(ingested, "o0600") == [("o0600", 1, END)]


def test_what_is_posted_of_rows_that_are_not_there_changes_nothing(ingested: Place) -> None:
    before, _ = training_rows(ingested.use_case, ingested.lake, since=START, until=END, as_of=END)
    said(ingested, Outcome("1", END, row_key="nobody"))
    after, _ = training_rows(ingested.use_case, ingested.lake, since=START, until=END, as_of=END)
    assert after.equals(before)


def test_a_training_set_names_the_version_of_the_outcomes_that_it_read(ingested: Place, tmp_path: Path) -> None:
    build_tables(ingested.use_case, ingested.lake, as_of=END)
    apply(ingested.use_case, ingested.settings)
    logged(ingested.lake, tmp_path, "p", "o0600")

    def versions() -> dict[str, int]:
        found = training_set(
            ingested.use_case, ingested.settings, ingested.lake, since=START, until=END, as_of=END
        ).versions
        return {name: version for name, version in found.items() if "/" not in name}

    assert versions() == {}
    said(ingested, Outcome("1", END, row_key="o0600"))
    assert versions() == {"outcomes": 0, "predictions": 0}
