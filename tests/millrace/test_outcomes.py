"""Which label holds: the same for every order of arrival, and as a reader with pencil and paper would find it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import UseCaseError
from millrace.lake import Lake
from millrace.outcome_log import Outcome, OutcomeLog, ship
from millrace.outcomes import attach, disputed, holding, posted, standing, unknown
from millrace.prediction_log import Prediction, PredictionLog, microseconds
from millrace.prediction_log import ship as ship_predictions
from millrace.source import Source
from millrace.usecase import Label

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
INSTANT = pl.Datetime("us", "UTC")
SOURCE = Source("trips", lambda since, until: pl.DataFrame(), lambda: None, ("trip",))
LATE = Label(SOURCE, "late", HOUR)

Statement = tuple[str, datetime | None, str, int, datetime]
"""row_key, instant, prediction_id, label, known_at: what names nothing is empty."""


def statements(rows: Sequence[tuple[Any, ...]], *names: str) -> pl.DataFrame:
    types = {"row_key": pl.String, "prediction_id": pl.String, "event_time": INSTANT}
    schema = {name: types[name] for name in names} | {"label": pl.Int8, "label_known_at": INSTANT}
    return pl.DataFrame(rows, schema=schema, orient="row")


def predictions(*rows: tuple[str, str, datetime]) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema={"prediction_id": pl.String, "row_key": pl.String, "event_time": INSTANT}, orient="row"
    )


def by_hand(said: Sequence[tuple[int, datetime]]) -> tuple[int, datetime] | None:
    """The label that holds and since when, statement by statement in the order of their times."""
    of_instant: dict[datetime, int] = defaultdict(int)
    for label, at in said:
        of_instant[at] = max(of_instant[at], label)
    held: tuple[int, datetime] | None = None
    for at, label in sorted(of_instant.items()):
        if held is None or held[0] != label:
            held = (label, at)
    return held


labels = st.integers(0, 2)
moments = st.integers(0, 4).map(lambda hours: NOON + hours * HOUR)
keys = st.sampled_from("kmx")
said = st.one_of(
    st.tuples(keys, st.none(), st.just(""), labels, moments),
    st.tuples(keys, moments, st.just(""), labels, moments),
    st.tuples(st.just(""), st.none(), st.sampled_from("pqy"), labels, moments),
)


@given(st.lists(said, max_size=25), st.randoms())
def test_late_repeated_and_corrected_labels_join_as_by_hand_in_any_order(arrived: list[Statement], random: Any) -> None:
    rows = predictions(("p", "", NOON), ("q", "k", NOON), ("r", "k", NOON + HOUR), ("s", "m", NOON))
    arrived += random.sample(arrived, len(arrived) // 2)  # sent again
    random.shuffle(arrived)
    frames = [
        statements([(key, label, at) for key, on, _, label, at in arrived if key and on is None], "row_key"),
        statements([(key, on, label, at) for key, on, _, label, at in arrived if key and on], "row_key", "event_time"),
        statements([(name, label, at) for key, _, name, label, at in arrived if not key], "prediction_id"),
    ]
    found = attach(rows, frames)
    expected, corrected, contradictory = [], 0, 0
    for name, row, instant in rows.iter_rows():
        of_row = [
            (label, at)
            for key, on, prediction, label, at in arrived
            if (prediction == name if prediction else key == row and on in (None, instant))
        ]
        expected.append(by_hand(of_row) or (None, None))
        contradictory += len({at for _, at in of_row}) < len(set(of_row))
        standing = {max(label for label, at in of_row if at == moment) for moment in {at for _, at in of_row}}
        corrected += len(standing) > 1
    assert found.frame.select("label", "label_known_at").rows() == expected
    assert (found.corrected, found.contradictory) == (corrected, contradictory)
    named = {(key, on, name) for key, on, name, *_ in arrived}
    there = {("k", None), ("m", None), ("k", NOON), ("k", NOON + HOUR), ("m", NOON)}
    assert found.unmatched == sum(name not in "pq" if name else (key, on) not in there for key, on, name in named)


def test_a_label_said_again_is_known_since_it_was_first_said() -> None:
    held, *_ = holding(statements([("a", 1, NOON), ("a", 1, NOON + HOUR)], "row_key"), ["row_key"])
    assert held.rows() == [("a", 1, NOON)]


def test_a_label_that_returned_is_known_since_it_returned() -> None:
    held, *_ = holding(
        statements([("a", 1, NOON), ("a", 0, NOON + HOUR), ("a", 1, NOON + 2 * HOUR)], "row_key"), ["row_key"]
    )
    assert held.rows() == [("a", 1, NOON + 2 * HOUR)]


def test_rows_keep_their_columns_and_order() -> None:
    rows = predictions(("b", "k", NOON), ("a", "m", NOON))
    found = attach(rows, [statements([("m", 1, NOON)], "row_key")]).frame
    assert found.drop("label", "label_known_at").equals(rows)
    assert found["label"].to_list() == [None, 1]


def test_statements_by_a_name_that_the_rows_lack_are_unmatched() -> None:
    rows = predictions(("p", "k", NOON)).drop("prediction_id")
    found = attach(rows, [statements([("p", 1, NOON), ("p", 0, NOON), ("q", 1, NOON)], "prediction_id")])
    assert found.frame["label"].to_list() == [None]
    assert found.unmatched == 2


def test_only_what_is_known_since_counts_as_unmatched() -> None:
    found = attach(predictions(), [statements([("x", 1, NOON - HOUR), ("y", 1, NOON)], "row_key")], since=NOON)
    assert found.unmatched == 1


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def said_to(lake: Lake, *outcomes: Outcome) -> None:
    path = Path(lake.root).parent / "outcomes.db"
    log = OutcomeLog(path)
    log.append(outcomes, received_at=NOON)
    log.close()
    ship(path, lake)


def logged(lake: Lake, **keys: str) -> None:
    """A prediction of each id with this row key."""
    folder = Path(lake.root).parent / "log"
    log = PredictionLog(folder)
    at = microseconds(NOON)
    log.append({}, [Prediction(name, 1, at, at, key, "", 0.5, []) for name, key in keys.items()])
    log.close()
    ship_predictions(folder, lake)


def test_before_anything_is_posted_there_is_nothing(lake: Lake) -> None:
    assert posted(LATE, lake, as_of=NOON) == ()


def test_what_is_posted_exists_from_its_known_time_on(lake: Lake) -> None:
    said_to(lake, Outcome("1", NOON, row_key="a"), Outcome("0", NOON + HOUR, row_key="a"))
    (frame,) = posted(LATE, lake, as_of=NOON)
    assert frame.rows() == [("a", 1, NOON)]
    assert posted(LATE, lake, as_of=NOON - HOUR) == ()


def test_a_prediction_with_a_key_stands_for_its_row_and_one_without_for_itself(lake: Lake) -> None:
    said_to(lake, *(Outcome("1", NOON, prediction_id=name) for name in ("keyed", "keyless", "unknown")))
    logged(lake, keyed="UA|1", keyless="")
    by_key, by_id = posted(LATE, lake, as_of=NOON)
    assert by_key.rows() == [("UA|1", 1, NOON)]
    assert sorted(by_id["prediction_id"]) == ["keyless", "unknown"]


def test_a_prediction_that_is_logged_after_its_label_is_found_then(lake: Lake) -> None:
    said_to(lake, Outcome("1", NOON, prediction_id="p"))
    assert posted(LATE, lake, as_of=NOON)[0].columns[0] == "prediction_id"
    logged(lake, p="UA|1")
    assert posted(LATE, lake, as_of=NOON)[0].columns[0] == "row_key"


def test_a_key_with_an_instant_is_told_apart(lake: Lake) -> None:
    said_to(lake, Outcome("1", NOON, row_key="a", at=NOON))
    (frame,) = posted(LATE, lake, as_of=NOON)
    assert frame.rows() == [("a", NOON, 1, NOON)]


def test_classes_are_read_by_name_and_one_that_is_no_more_says_nothing(lake: Lake) -> None:
    said_to(lake, *(Outcome(name, NOON, row_key=name) for name in ("pear", "plum", "1")))
    fruit = Label(SOURCE, "fruit", HOUR, classes=("apple", "pear", "quince"))
    assert posted(fruit, lake, as_of=NOON)[0].rows() == [("pear", 1, NOON)]
    assert posted(LATE, lake, as_of=NOON)[0].rows() == [("1", 1, NOON)]


def test_what_names_no_prediction_of_the_log_is_counted(lake: Lake) -> None:
    assert unknown(lake, as_of=NOON) == 0
    named = [Outcome("1", NOON, prediction_id="p"), Outcome("0", NOON, row_key="k"), Outcome("1", NOON, row_key="k")]
    said_to(lake, *named, Outcome("1", NOON + HOUR, row_key="later"))
    assert unknown(lake, as_of=NOON) == 2
    logged(lake, q="k")
    assert unknown(lake, as_of=NOON) == 1
    logged(lake, p="")
    assert unknown(lake, as_of=NOON) == 0


def source_says(*rows: tuple[str, int, datetime]) -> pl.DataFrame:
    schema = {"trip": pl.String, "label": pl.Int8, "label_known_at": INSTANT}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_where_the_source_holds_what_is_posted_on_rows_that_it_knows_is_left_out(lake: Lake) -> None:
    said_to(lake, Outcome("1", NOON, row_key="known"), Outcome("1", NOON + HOUR, row_key="open"))
    own = source_says(("known", 0, NOON))
    strict = Label(SOURCE, "late", HOUR, holds="source")
    said = posted(strict, lake, as_of=NOON + HOUR)
    assert standing(strict, own, said)[0]["row_key"].to_list() == ["open"]
    assert standing(strict, own, posted(strict, lake, as_of=NOON)) == ()
    assert standing(LATE, own, said) == said


def test_rows_of_which_source_and_clients_say_different_things_are_counted(lake: Lake) -> None:
    own = source_says(("a", 0, NOON), ("b", 0, NOON - HOUR), ("b", 1, NOON))
    assert disputed(LATE, own, ()) == 0
    said_to(lake, *(Outcome("1", NOON, row_key=key) for key in "abc"))
    assert disputed(LATE, own, posted(LATE, lake, as_of=NOON)) == 1
    said_to(lake, Outcome("0", NOON + HOUR, row_key="a"))
    assert disputed(LATE, own, posted(LATE, lake, as_of=NOON + HOUR)) == 0


def test_who_holds_is_one_of_two() -> None:
    with pytest.raises(UseCaseError, match="holds"):
        Label(SOURCE, "late", HOUR, holds="loudest")  # type: ignore[arg-type]  # that is the test
