"""Engines give the model's probabilities, and load nothing that is not on the list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from millrace.bundle import Bundle
from millrace.engine import load_engine, open_engine
from millrace.errors import BundleError

ROWS = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)


def test_an_onnx_bundle_predicts_the_probability_of_outcome_one(bundle: Bundle) -> None:
    scores = open_engine(bundle).predict(ROWS)
    assert (scores.dtype, scores.shape) == (np.float64, (300,))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-(ROWS @ [0.5, -1.0]))), atol=1e-6)


def test_one_row_and_many_and_none_give_the_same_scores(bundle: Bundle) -> None:
    engine = open_engine(bundle)
    single = [float(engine.predict(ROWS[index : index + 1])[0]) for index in range(5)]
    np.testing.assert_allclose(single, engine.predict(ROWS)[:5], atol=1e-7)
    assert engine.predict(ROWS[:0]).shape == (0,)


def test_an_onnx_model_of_another_width_is_refused(onnx_model: Callable[..., bytes]) -> None:
    with pytest.raises(BundleError, match="matrix of 3 columns"):
        load_engine("onnx", onnx_model([0.5, -1.0]), width=3)


def test_a_broken_onnx_model_is_refused(onnx_model: Callable[..., bytes]) -> None:
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_engine("onnx", onnx_model([0.5, -1.0])[:-20], width=2)


def fitted(estimator: Any) -> Any:
    return estimator.fit(ROWS, (ROWS[:, 0] > ROWS[:, 1]).astype(int))


@pytest.mark.parametrize("kind", ["hist_gbm", "logistic"])
def test_a_native_model_predicts_what_the_estimator_does(kind: str) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from skops.io import dumps

    estimator = fitted(HistGradientBoostingClassifier(max_iter=3) if kind == "hist_gbm" else LogisticRegression())
    engine = load_engine("skops", dumps(estimator), width=2)
    assert engine.predict(ROWS).tolist() == estimator.predict_proba(ROWS)[:, 1].tolist()


class Stranger:
    """A type that is on nobody's list."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("it was built")


def test_a_native_model_with_a_type_that_is_not_listed_is_refused_unbuilt() -> None:
    from sklearn.linear_model import LogisticRegression
    from skops.io import dumps

    estimator = fitted(LogisticRegression())
    estimator.stranger_ = Stranger()
    with pytest.raises(BundleError, match="not on Millrace's list"):
        load_engine("skops", dumps(estimator), width=2)


def test_a_pickle_is_no_native_model() -> None:
    import pickle

    with pytest.raises(BundleError, match="cannot be loaded"):
        load_engine("skops", pickle.dumps({}), width=2)
