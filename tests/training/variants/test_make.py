"""What the variants of a candidate are called, are made of and come as; what is said when one cannot be made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from millrace import Distil, Int8, Prune, TorchCandidate
from millrace.errors import TrainingError
from training.export import Exported
from training.fit import Fitted
from training.made import Made, Rows
from training.variants import make_variants

Make = Callable[..., list[Made]]


@pytest.fixture(scope="module")
def every(made_of: Make, student: TorchCandidate) -> dict[str, Made]:
    """All kinds of variants of `net`, by name."""
    taught = replace(student, variants=(Int8(), Prune(0.5, epochs=1)))
    return {one.name: one for one in made_of(Distil(taught), Prune(0.5, epochs=2), Int8())}


def test_variants_come_as_declared_and_a_students_right_after_it(every: dict[str, Made]) -> None:
    assert [(one.name, one.of) for one in every.values()] == [
        ("net+student", "net"),
        ("net+student+int8", "net+student"),
        ("net+student+prune50", "net+student"),
        ("net+prune50", "net"),
        ("net+int8", "net"),
    ]


def test_every_variant_serves_and_has_learned(every: dict[str, Made], net_rows: Rows) -> None:
    for one in every.values():
        scores = one.exported.engine.predict(net_rows.X)
        assert ((scores > 0.5) == net_rows.y).mean() > 0.8, one.name
        assert one.exported.kind == "onnx"
        assert one.seconds > 0


def test_networks_are_proven_equal_to_what_they_serve_as(every: dict[str, Made]) -> None:
    assert max(every[name].exported.difference for name in ("net+student", "net+prune50")) <= 1e-5


def test_params_are_those_of_the_network(every: dict[str, Made]) -> None:
    assert all(dict(one.params) == {} for one in every.values())


def test_no_variants_make_nothing(made_of: Make) -> None:
    assert made_of() == []


def test_the_fitted_network_stays_as_it_is(
    every: dict[str, Made], net_fitted: tuple[Fitted, Exported], net_rows: Rows
) -> None:
    fitted, exported = net_fitted
    difference = fitted.model.predict_proba(net_rows.X)[:, 1] - exported.engine.predict(net_rows.X)
    assert np.abs(difference).max() <= 1e-5


def test_the_same_seed_makes_the_same_bytes(every: dict[str, Made], made_of: Make) -> None:
    again = {one.name: one for one in made_of(Prune(0.5, epochs=2), Int8())}
    assert all(again[name].exported.model == every[name].exported.model for name in again)


def test_a_variant_that_takes_too_long_is_named(
    net: TorchCandidate, net_fitted: tuple[Fitted, Exported], net_rows: Rows, student: TorchCandidate
) -> None:
    slow = replace(net, variants=(Distil(replace(student, timeout=timedelta(0))),))
    with pytest.raises(TrainingError, match=r"'net\+student' cannot be made within 0 s, the timeout of 'student'"):
        list(make_variants(slow, *net_fitted, net_rows, name="net"))


def test_a_student_that_cannot_be_built_is_named(made_of: Make, student: TorchCandidate) -> None:
    def broken(inputs: Any) -> Any:
        raise ValueError("no such layer")

    with pytest.raises(TrainingError, match=r"'net\+student' cannot be made: .*no such layer"):
        made_of(Distil(replace(student, module=broken)))


def test_a_student_of_another_shape_is_named(cnn_made_of: Make, student: TorchCandidate) -> None:
    with pytest.raises(TrainingError, match=r"'cnn\+student' cannot be made"):
        cnn_made_of(Distil(student))


def test_importing_it_brings_neither_torch_nor_onnx() -> None:
    code = "import sys, training.variants; print([n for n in ('torch', 'onnx', 'onnxruntime') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
