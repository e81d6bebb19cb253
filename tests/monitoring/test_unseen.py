"""How much of a window lies beyond what a model learned from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from millrace.contract import Contract
from millrace.inputs import describe_inputs
from monitoring.unseen import Unseen, unseen

LEARNED = pl.DataFrame({"wind": [0.0, 5.0, 10.0], "heat": [-5.0, 0.0, 20.0], "carrier": ["AA", "UA", "AA"]})


def contract(learned: pl.DataFrame = LEARNED, rows: int = 0) -> Contract:
    """Of a model that was fitted on these; `rows` as its lineage has it."""
    return Contract(
        use_case="rides",
        question="Late?",
        candidate="gbm",
        engine="onnx",
        inputs=describe_inputs(learned, learned.columns),
        trained_as_of=datetime(2024, 1, 1, tzinfo=UTC),
        read_plan={},
        lineage={"fit": {"rows": rows}} if rows else {},
    )


def window(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"wind": [1.0] * 4, "heat": [1.0] * 4, "carrier": ["AA"] * 4} | columns)


def test_rows_within_the_ranges_are_known() -> None:
    assert unseen(contract(), window()) == Unseen(0.0, ())


def test_a_row_counts_once_however_many_inputs_are_beyond() -> None:
    found = unseen(contract(), window(wind=[11.0, 1.0, 1.0, 1.0], heat=[25.0, 1.0, 1.0, -9.0]))
    assert found == Unseen(0.5, ("heat", "wind"))


def test_a_category_that_was_never_seen_counts_and_a_missing_one_does_not() -> None:
    found = unseen(contract(), window(carrier=["ZZ", None, "AA", "UA"]))
    assert found == Unseen(0.25, ("carrier",))


def test_a_missing_number_does_not_count() -> None:
    found = unseen(contract(), window(wind=[None, None, 1.0, 1.0]))
    assert found is not None
    assert found.share == 0


def test_an_array_counts_as_one_input() -> None:
    learned = pl.DataFrame({"image": [[0.0, 1.0], [1.0, 0.0]]})
    found = unseen(contract(learned), pl.DataFrame({"image": [[0.5, 0.5], [2.0, 0.5]]}))
    assert found == Unseen(0.5, ("image",))


def test_what_chance_puts_beyond_the_ranges_is_left_out() -> None:
    found = unseen(contract(rows=19), window(wind=[11.0, 1.0, 1.0, 1.0]))
    assert found is not None
    assert found.share == pytest.approx(0.25 - 2 * 2 / 20)


@pytest.mark.parametrize("rows", [window().clear(), window().drop("heat"), window(wind=["a", "b", "c", "d"])])
def test_rows_that_the_model_cannot_take_say_nothing(rows: pl.DataFrame) -> None:
    assert unseen(contract(), rows) is None


def test_the_worst_three_inputs_are_named() -> None:
    names = ["a", "b", "c", "d"]
    learned = pl.DataFrame({name: [0.0, 1.0] for name in names})
    rows = pl.DataFrame({name: [2.0] * (place + 1) + [0.5] * (3 - place) for place, name in enumerate(names)})
    found = unseen(contract(learned), rows)
    assert found is not None
    assert found.inputs == ("d", "c", "b")
