"""The loop stops early, keeps the best weights, and stops at once at what is no number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millrace import TorchCandidate
from millrace.errors import TrainingError

Fit = Callable[..., Any]


def test_it_stops_early_and_keeps_the_best_weights(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    X, y = rows
    flipped = np.r_[y[:990], 1 - y[990:]].astype(np.int8)  # what it learns makes the last tenth ever worse
    found = fit(replace(mlp, max_epochs=30, learning_rate=0.003, patience=3), y=flipped)
    curve = found.curves["watch_loss"]
    assert len(curve) < 30
    assert len(curve) == int(np.argmin(curve)) + 4
    p = found.predict_proba(X[990:])[np.arange(110), flipped[990:]]
    assert -np.log(p).mean() == pytest.approx(min(curve), abs=1e-6)


def test_each_curve_has_a_figure_an_epoch(fit: Fit, mlp: TorchCandidate) -> None:
    curves = fit(mlp).curves
    assert set(curves) == {"fit_loss", "watch_loss", "learning_rate", "seconds", "rows_per_second"}
    assert {len(curve) for curve in curves.values()} == {3}
    assert curves["fit_loss"][0] > curves["fit_loss"][-1]


def test_a_loss_that_is_no_number_stops_at_its_batch_and_names_its_rows(
    fit: Fit, mlp: TorchCandidate, rows: Any
) -> None:
    X = np.nan_to_num(rows[0])
    X[[17, 600], 0] = np.nan
    with pytest.raises(TrainingError, match=r"'mlp' became nan in epoch 1, batch \d+\.") as caught:
        fit(mlp, X=X, params={"spoil": "missing"})
    assert "1 of the batch's 128 rows have no finite loss, 1 of them a missing input" in caught.value.looked
    assert caught.value.looked.endswith(("fit rows 17.", "fit rows 600."))


def test_a_gradient_that_is_no_number_stops_at_its_batch(fit: Fit, mlp: TorchCandidate) -> None:
    with pytest.raises(TrainingError, match="The gradient of 'mlp' became nan in epoch 1, batch 1"):
        fit(mlp, params={"spoil": "gradient"})


def test_a_watched_loss_that_is_no_number_stops_its_epoch(fit: Fit, mlp: TorchCandidate) -> None:
    with pytest.raises(TrainingError, match=r"on the watched rows became (nan|inf) in epoch 1"):
        fit(mlp, params={"spoil": "watch"})


def test_accumulated_batches_make_the_step_of_one_large_batch(fit: Fit, mlp: TorchCandidate) -> None:
    whole = fit(replace(mlp, batch_size=256)).curves["fit_loss"]
    parts = fit(replace(mlp, batch_size=64, accumulate=4)).curves["fit_loss"]
    assert parts == pytest.approx(whole, abs=1e-6)


def test_a_tight_clip_keeps_it_where_it_began(fit: Fit, mlp: TorchCandidate) -> None:
    free, clipped = (fit(replace(mlp, clip_norm=norm)).curves["fit_loss"] for norm in (1e9, 1e-12))
    assert clipped[0] - clipped[-1] < 0.01 < free[0] - free[-1]


def test_activations_computed_again_give_the_same_bits(fit: Fit, mlp: TorchCandidate, rows: Any) -> None:
    kept, again = (
        fit(replace(mlp, checkpoint_activations=on), params={"dropout": 0.2}).predict_proba(rows[0]).tobytes()
        for on in (False, True)
    )
    assert kept == again


def test_activations_are_computed_again_in_the_backward_pass(fit: Fit, mlp: TorchCandidate) -> None:
    calls = {False: 0, True: 0}

    def counting(on: bool) -> TorchCandidate:
        def module(inputs: Any) -> Any:
            built = mlp.module(inputs)
            built.hidden[0].register_forward_hook(lambda *given: calls.__setitem__(on, calls[on] + built.training))
            return built

        return replace(mlp, module=module, checkpoint_activations=on)

    for on in calls:
        found = fit(counting(on), epochs=1)
        assert "forward" not in vars(found.module.hidden)
    assert calls[True] == 2 * calls[False] > 0
