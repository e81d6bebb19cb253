"""A student learns what its teacher says, more than what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from millrace import Distil, TorchCandidate
from training.fit import Fitted
from training.made import Made, Rows
from training.variants.distil import distilled


class Teacher:
    """Says the opposite of what happened."""

    def __init__(self, rows: Rows) -> None:
        self._wrong = np.where(rows.y > 0, 0.1, 0.9)

    def predict_proba(self, matrix: Any) -> Any:
        return np.column_stack([1 - self._wrong, self._wrong])


def accuracy(fitted: Fitted, rows: Rows) -> float:
    return float(((fitted.model.predict_proba(rows.X)[:, 1] > 0.5) == rows.y).mean())


def test_a_student_follows_its_teacher(net_rows: Rows, student: TorchCandidate) -> None:
    longer = replace(student, patience=8)  # what is watched is the truth, which this teacher takes it away from
    teacher = Fitted(Teacher(net_rows), {}, {})
    misled, _ = distilled(teacher, net_rows, Distil(longer, weight=1.0, temperature=1.0))
    told, _ = distilled(teacher, net_rows, Distil(longer, weight=0.01, temperature=1.0))
    assert accuracy(misled, net_rows) < 0.6 < 0.8 < accuracy(told, net_rows)


def test_its_notes_and_parameters_are_its_own(made_of: Callable[..., list[Made]], student: TorchCandidate) -> None:
    (made,) = made_of(Distil(replace(student, search={"learning_rate": (0.02, 0.1)}), weight=0.5, temperature=3.0))
    notes = dict(made.notes or {})
    assert dict(made.params) == {"learning_rate": 0.02}
    assert (notes["teacher_weight"], notes["temperature"]) == (0.5, 3.0)
    assert "cpu" in notes["device"]
