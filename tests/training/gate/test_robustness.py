"""What damaged inputs do to a model is found and told, whatever the model does."""

from __future__ import annotations

from math import isnan, log, nan
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from millrace.inputs import InputSpec
from training.gate import RobustnessTest, robustness_test
from training.gate.robustness import JITTER, SLACK_MILD, SLACK_MISSING, check_robustness

Array = NDArray[Any]
INPUTS = (
    InputSpec("wind", "numeric"),
    InputSpec("rain", "numeric"),
    InputSpec("carrier", "categorical", ("AA", "B6", "UA")),
    InputSpec("empty", "numeric", always_missing=True),
)


def rows(count: int = 3_000, seed: int = 0) -> tuple[NDArray[np.float32], Array]:
    """A matrix of INPUTS and outcomes that depend on wind, carrier, and a little on rain."""
    random = np.random.default_rng(seed)
    X = np.zeros((count, 4), dtype=np.float32)
    X[:, :2], X[:, 2] = random.normal(size=(count, 2)), random.integers(0, 3, size=count)
    return X, (random.random(count) < careful(X)).astype(np.int8)


def careful(X: Array) -> NDArray[np.float64]:
    """A model that knows what missing means: nothing."""
    wind, rain = np.nan_to_num(X[:, 0], nan=0.0), np.nan_to_num(X[:, 1], nan=0.0)
    carrier = np.array([-1.0, 0.0, 1.0, 0.0])[X[:, 2].astype(int)]
    logit: NDArray[np.float64] = (wind + 0.3 * rain + carrier).astype(np.float64)
    return 1 / (1 + np.exp(-logit))


def careless(X: Array) -> NDArray[np.float64]:
    """The same, but a missing wind means a storm."""
    return careful(np.where(np.isnan(X), np.float32(6.0), X))


def test_a_model_that_bears_damage_passes_and_the_worst_is_told() -> None:
    found = robustness_test(careful, *rows(), INPUTS)
    check = check_robustness(found)
    assert check.passed
    assert found.damages[0].what == "wind missing"
    assert check.reason == (
        f"It bears damaged inputs: the worst is wind missing, with a log loss of {found.damages[0].log_loss:.4f} "
        f"instead of {found.log_loss:.4f} (the base rate has {found.base_rate:.4f})."
    )


def test_every_input_goes_missing_in_turn_then_some_of_all_then_numbers_are_jittered() -> None:
    found = robustness_test(careful, *rows(), INPUTS)
    assert {one.what for one in found.damages} == {
        "wind missing", "rain missing", "carrier missing", "10 % of the values missing", "jittered numbers",
    }  # fmt: skip
    assert [one.log_loss for one in found.damages] == sorted((one.log_loss for one in found.damages), reverse=True)


def test_a_model_that_does_harm_when_an_input_is_missing_is_refused() -> None:
    found = robustness_test(careless, *rows(), INPUTS)
    check = check_robustness(found)
    assert not check.passed
    assert check.reason == (
        f"With wind missing its log loss is {found.damages[0].log_loss:.4f} instead of {found.log_loss:.4f}; at most "
        f"{found.base_rate + SLACK_MISSING:.4f} is allowed (the base rate has {found.base_rate:.4f})."
    )


def test_mild_damage_is_allowed_less_than_a_whole_input() -> None:
    found = robustness_test(careful, *rows(), INPUTS)
    allowed = {one.what: one.allowed for one in found.damages}
    assert allowed["wind missing"] == found.base_rate + SLACK_MISSING
    assert allowed["10 % of the values missing"] == allowed["jittered numbers"] == found.base_rate + SLACK_MILD


def test_no_worse_than_the_baseline_under_the_same_damage_is_allowed() -> None:
    found = robustness_test(careless, *rows(), INPUTS, baseline=careless)
    assert check_robustness(found).passed
    assert found.damages[0].baseline == found.damages[0].log_loss
    assert found.damages[0].log_loss > found.base_rate + SLACK_MISSING


def test_a_week_that_is_hard_without_damage_is_not_held_against_the_model() -> None:
    X, y = rows()
    found = robustness_test(careful, X, 1 - y, INPUTS)
    assert found.log_loss > found.base_rate + SLACK_MISSING
    assert check_robustness(found).passed


def test_a_model_of_one_input_need_not_know_anything_without_it_but_must_answer() -> None:
    def storm(X: Array) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-np.nan_to_num(X[:, 0], nan=6.0).astype(np.float64)))

    X, y = rows()
    spec = (InputSpec("image", "numeric", size=4),)
    found = robustness_test(storm, X, y, spec)
    alone = next(one for one in found.damages if one.what == "image missing")
    assert alone.allowed is None
    assert alone.log_loss > found.base_rate + SLACK_MISSING
    assert not alone.harms
    assert "the worst is jittered numbers" in check_robustness(found).reason
    silent = robustness_test(lambda X: X[:, 0] * 0.0 + 0.5, X, y, spec)
    assert check_robustness(silent).reason == "With image missing it gives no probability for 2,000 rows."


@pytest.mark.parametrize(
    ("value", "says"),
    [(nan, "gives no probability for"), (1.5, "gives no probability for"), (-0.1, "gives no probability for")],
)
def test_an_answer_that_is_no_probability_refuses(value: float, says: str) -> None:
    def broken(X: Array) -> NDArray[np.float64]:
        return np.where(np.isnan(X[:, 1]), value, careful(X))

    found = robustness_test(broken, *rows(), INPUTS)
    check = check_robustness(found)
    assert not check.passed
    assert check.reason.startswith(f"With rain missing it {says} 2,000 rows")
    assert isnan(found.damages[0].log_loss)


def test_a_model_that_raises_is_refused_with_what_it_said() -> None:
    def raising(X: Array) -> NDArray[np.float64]:
        if np.isnan(X).any():
            raise RuntimeError("Input contains NaN.\nMore of it")
        return careful(X)

    check = check_robustness(robustness_test(raising, *rows(), INPUTS))
    assert not check.passed
    assert check.reason.endswith("missing it does not answer: RuntimeError: Input contains NaN.")


def test_a_model_that_fails_undamaged_is_refused_for_that() -> None:
    found = robustness_test(lambda X: np.full(len(X), nan), *rows(), INPUTS)
    assert check_robustness(found).reason == "With nothing damaged it gives no probability for 2,000 rows."


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (np.array(0.5), "of another shape"),
        (np.full(3, 0.5), "of another shape"),
        (np.full((2_000, 2, 2), 0.25), "of another shape"),
    ],
)
def test_an_answer_of_another_shape_refuses(answer: Array, says: str) -> None:
    check = check_robustness(robustness_test(lambda X: answer, *rows(), INPUTS))
    assert not check.passed
    assert says in check.reason


def test_a_baseline_that_cannot_answer_is_left_out() -> None:
    def raising(X: Array) -> NDArray[np.float64]:
        raise RuntimeError("no")

    found = robustness_test(careful, *rows(), INPUTS, baseline=raising)
    assert check_robustness(found).passed
    assert {one.baseline for one in found.damages} == {None}


def test_classes_are_damaged_like_two_outcomes() -> None:
    X, _ = rows()

    def three(X: Array) -> NDArray[np.float64]:
        likely = np.full((len(X), 4), 0.02) + 0.92 * np.eye(4)[X[:, 2].astype(int)]
        likely[X[:, 2] == 3] = 0.25
        return likely[:, :3] / likely[:, :3].sum(axis=1, keepdims=True)

    found = robustness_test(three, X, X[:, 2].astype(np.int8), INPUTS)
    assert found.base_rate == pytest.approx(log(3), abs=0.01)
    assert found.damages[0].what == "carrier missing"
    assert found.damages[0].log_loss == pytest.approx(log(3))
    assert check_robustness(found).passed
    halves = robustness_test(lambda X: three(X) / 2, X, X[:, 2].astype(np.int8), INPUTS)
    assert not check_robustness(halves).passed


def seen(inputs: tuple[InputSpec, ...], X: NDArray[np.float32]) -> dict[str, Array]:
    """The matrices that a model is asked with, by what is damaged."""
    asked: list[Array] = []

    def predict(matrix: Array) -> NDArray[np.float64]:
        asked.append(matrix.copy())
        return np.full(len(matrix), 0.5) - 1e-6 * len(asked)

    found = robustness_test(predict, X, np.arange(len(X)) % 2, inputs)
    order = sorted(found.damages, key=lambda one: one.log_loss)
    return dict(zip(["clean"] + [one.what for one in order], asked, strict=True))


def test_the_damages_are_those_that_serving_would_see() -> None:
    X, _ = rows(1_000)
    asked = seen(INPUTS, X)
    assert (asked["clean"] == X).all()
    assert np.isnan(asked["wind missing"][:, 0]).all()
    assert (asked["wind missing"][:, 1:] == X[:, 1:]).all()
    assert (asked["carrier missing"][:, 2] == 3).all()
    some = asked["10 % of the values missing"]
    assert 0.07 < np.isnan(some[:, 0]).mean() < 0.13
    assert 0.07 < (some[:, 2] == 3).mean() < 0.13
    jittered = asked["jittered numbers"]
    assert (jittered[:, 0] - X[:, 0]).std() == pytest.approx(JITTER * X[:, 0].std(), rel=0.1)
    assert (jittered[:, 2:] == X[:, 2:]).all()
    assert all((matrix[:, 3] == 0).all() for matrix in asked.values())


def test_arrays_go_missing_whole_and_are_jittered_place_by_place() -> None:
    random = np.random.default_rng(0)
    X = (random.normal(size=(1_000, 5)) * [1, 10, 0, 1, 1]).astype(np.float32)
    asked = seen((InputSpec("image", "numeric", size=3), InputSpec("a", "numeric"), InputSpec("b", "numeric")), X)
    some = np.isnan(asked["10 % of the values missing"])
    assert (some[:, 0] == some[:, 1]).all()
    assert (some[:, 0] == some[:, 2]).all()
    assert (some[:, 0] != some[:, 3]).any()
    spread = (asked["jittered numbers"] - X).std(axis=0)
    assert spread == pytest.approx([0.1, 1.0, 0.0, 0.1, 0.1], rel=0.1)


def test_columns_without_a_value_stay_missing_under_jitter() -> None:
    X, _ = rows(100)
    X[:, 1] = nan
    jittered = seen(INPUTS, X)["jittered numbers"]
    assert np.isnan(jittered[:, 1]).all()
    assert np.isfinite(jittered[:, 0]).all()


def test_the_matrix_that_was_given_is_left_as_it_was() -> None:
    X, y = rows()
    before = X.copy()

    def greedy(matrix: Array) -> NDArray[np.float64]:
        found = careful(matrix)
        matrix[:] = 0
        return found

    assert robustness_test(greedy, X, y, INPUTS) == robustness_test(careful, X, y, INPUTS)
    assert (before == X).all()


def test_few_rows_are_spread_over_the_hold_out_and_the_seed_repeats_the_damage() -> None:
    X, y = rows()
    found = robustness_test(careful, X, y, INPUTS, rows=100, seed=4)
    assert found.rows == 100
    assert robustness_test(careful, X, y, INPUTS, rows=100, seed=4) == found
    assert robustness_test(careful, X, y, INPUTS, rows=100, seed=5) != found


def test_a_model_without_inputs_to_damage_passes() -> None:
    X, y = rows()
    found = robustness_test(lambda X: np.full(len(X), 0.5), X[:, 3:], y, INPUTS[3:])
    assert check_robustness(found).reason == "It has no inputs that could be damaged."


@pytest.mark.parametrize("X", [np.zeros((5, 3), np.float32), np.zeros(5, np.float32), np.zeros((0, 4), np.float32)])
def test_a_matrix_of_another_shape_is_refused(X: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="rows of 4 columns"):
        robustness_test(careful, X, np.zeros(len(X)), INPUTS)


def test_the_figures_hold_every_damage() -> None:
    found = robustness_test(careful, *rows(), INPUTS)
    figures = check_robustness(found).figures
    assert len(figures["damages"]) == 5
    assert isinstance(found, RobustnessTest)
