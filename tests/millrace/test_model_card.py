"""A model card tells what a reader needs, and nothing that came from data can become markup."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from millrace.budget import Budget, at_least, at_most
from millrace.contract import Contract
from millrace.inputs import InputSpec
from millrace.model_card import render_card
from millrace.quality import Quality, quality, slice_quality

INPUTS = (
    InputSpec("temperature", "numeric", low=-12.5, high=38.0, default=16.5),
    InputSpec("carrier", "categorical", ("AA", "B6"), default="AA"),
    InputSpec("image", "numeric", low=0.0, high=16.0, size=64, default=4.0),
    InputSpec("broken", "numeric", always_missing=True),
)
LINEAGE: dict[str, Any] = {
    "fit": {"rows": 900, "from": "2013-01-01", "until": "2013-03-20"},
    "holdout": {"rows": 100, "from": "2013-03-20", "until": "2013-03-27"},
    "unlabelled": 7,
    "params": {"learning_rate": 0.1},
    "parity": 2.4e-7,
    "lake_versions": {"raw/flights": 3},
    "seed": 5,
    "made_with": ["numpy==2.4.6", "polars==2.1.0"],
}
MADE = Contract("late", "Late?", "trees", "onnx", INPUTS, datetime(2013, 4, 1, tzinfo=UTC), lineage=LINEAGE, classes=())


@pytest.fixture(scope="module")
def scores() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    p = random.random(400)
    return (random.random(400) < p).astype(np.int8), p


@pytest.fixture(scope="module")
def measured(scores: tuple[np.ndarray, np.ndarray]) -> Quality:
    return quality(*scores)


@pytest.fixture(scope="module")
def card(scores: tuple[np.ndarray, np.ndarray], measured: Quality) -> str:
    slices = slice_quality(*scores, {"carrier": ["AA", "B6"] * 200})
    budget = Budget(at_least(roc_auc=0.6, accuracy=0.99), at_most(p99_ms=10), waived=("joules_per_1000",))
    return render_card(MADE, quality=measured, slices=slices, budget=budget, baseline=measured)


@pytest.mark.parametrize(
    "section", ["Problem", "Data", "Inputs", "Method", "Quality", "Slices", "Budget", "Limits of use", "Lineage"]
)
def test_every_section_is_there_once(card: str, section: str) -> None:
    assert card.count(f"\n## {section}\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "# late: trees",
        "> Late?",
        "| fitted on | 900 | 2013-01-01 | 2013-03-20 |",
        "7 rows were left out because their outcome was not known yet.",
        "| raw/flights | 3 |",
        "| temperature | number | -12.5 to 38 | 16.5 |",
        "| carrier | category | AA, B6 | AA |",
        "| image | 64 numbers | 0 to 16 | 4.0 |",
        "| broken | number | nothing: it was always missing, and its value has no effect |  |",
        "| learning_rate | 0.1 |",
        "| p99_ms | &lt;= 10 | measured later |",
        "Waived where it cannot be measured: joules_per_1000.",
        "- It learned nothing from broken, always missing when it was fitted.",
        "| made_with | numpy==2.4.6, polars==2.1.0 |",
        "| seed | 5 |",
    ],
)
def test_it_tells_what_the_contract_knows(card: str, line: str) -> None:
    assert line in card.splitlines()


def test_quality_is_told_with_intervals_beside_the_baseline(card: str, measured: Quality) -> None:
    low, high = measured.log_loss_interval
    value = f"{measured.log_loss:.4f}"
    assert f"| Log loss (nats) | {value} | {low:.4f} to {high:.4f} | {value} |" in card


def test_a_limit_on_quality_says_whether_it_was_kept(card: str, measured: Quality) -> None:
    assert f"| roc_auc | &gt;= 0.6 | {measured.roc_auc:.4f} (kept) |" in card
    assert f"| accuracy | &gt;= 0.99 | {measured.accuracy:.4f} (missed) |" in card


def test_the_worst_slice_comes_first(scores: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = scores
    hard = np.arange(400) < 200
    worse = np.where(hard, 1 - p, p)
    card = render_card(MADE, slices=slice_quality(y, worse, {"half": np.where(hard, "zz", "aa").tolist()}))
    assert card.index("| half | zz |") < card.index("| half | aa |")


def test_the_same_training_gives_the_same_card() -> None:
    assert render_card(MADE) == render_card(dataclasses.replace(MADE))


def test_a_contract_alone_has_a_card_that_says_what_is_unknown() -> None:
    bare = Contract("late", "Late?", "trees", "skops", INPUTS[:1], datetime(2013, 4, 1, tzinfo=UTC))
    card = render_card(bare)
    assert "It was not measured when this card was written." in card
    assert "scikit-learn itself" in card
    assert "## Lineage" not in card


def test_what_a_model_was_made_of_is_told() -> None:
    lineage = {"variant_of": "cnn", "parent": 4, "not_onnx_because": "The export differs by 0.2."}
    card = render_card(dataclasses.replace(MADE, engine="torch", lineage=lineage))
    assert "It is a variant of cnn, judged like any other model." in card
    assert "Its fit continued that of version 4." in card
    assert "served by PyTorch, weights read with safetensors. It is not served from ONNX because: The export" in card


def test_nested_lineage_is_told_entry_by_entry_and_nothing_of_what_is_empty() -> None:
    read = [{"name": "raw/trips", "version": 3}, {"version": 4}]
    lineage = {"provenance": {"commit": "abc", "cores": {"cpu": 2}, "gpu": None, "dirty": ""}, "notes": {}, "in": read}
    card = render_card(dataclasses.replace(MADE, lineage=lineage))
    table = card[card.index("## Lineage") :].splitlines()[4:]
    assert table == [
        "| in.1.version | 4 |",
        "| in.raw/trips.name | raw/trips |",
        "| in.raw/trips.version | 3 |",
        "| provenance.commit | abc |",
        "| provenance.cores.cpu | 2 |",
    ]


def test_several_outcomes_are_named() -> None:
    card = render_card(dataclasses.replace(MADE, classes=("red", "green", "blue")))
    assert "a probability for each of 3 outcomes: red, green, blue." in card


def test_a_figure_that_is_not_a_number_is_left_out() -> None:
    one_class = quality(np.zeros(20), np.full(20, 0.2))
    card = render_card(MADE, quality=one_class)
    assert "nan" not in card
    assert "| Area under the ROC curve |  |  |" in card
    assert "Only 0 hold-out rows had the outcome" in card


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("a | b", "a \\| b"),
        ("line\n# break", "line \\# break"),
        ("[x](http://y)", "\\[x\\](http://y)"),
        ("`code` *bold*", "\\`code\\` \\*bold\\*"),
    ],
)
def test_what_comes_from_data_is_shown_as_it_is(hostile: str, shown: str) -> None:
    inputs = (InputSpec("carrier", "categorical", (hostile,), default=hostile),)
    card = render_card(dataclasses.replace(MADE, inputs=inputs, question=hostile, lineage={"params": {"p": hostile}}))
    assert f"| carrier | category | {shown} | {shown} |" in card
    assert f"> {shown}\n" in card
    assert f"| p | {shown} |" in card
