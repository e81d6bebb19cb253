"""A smaller network that learns from the probabilities of a larger one.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015. The loss is `training.network`'s; this
module only brings teacher and student together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from millrace.candidates import Distil, default_params
from training.fit import Fitted
from training.made import Rows


def distilled(teacher: Fitted, rows: Rows, variant: Distil) -> tuple[Fitted, dict[str, Any]]:
    """The student, built with the defaults of its search space, and notes on how it was made.

    Student and teacher see the same rows; the probabilities are the teacher's own, not those of what serves it.
    """
    from training.network import fit_torch

    student, params = variant.student, default_params(variant.student.search)
    probabilities = np.asarray(teacher.model.predict_proba(rows.X), dtype=np.float64)
    network = fit_torch(
        student,
        rows.model_inputs,
        rows.X,
        rows.y,
        classes=rows.classes,
        params=params,
        seed=rows.seed,
        hardware=rows.hardware,
        teacher=probabilities if rows.classes else probabilities[:, 1],
        distil=variant,
    )
    notes = {"device": network.reason, "teacher_weight": variant.weight, "temperature": variant.temperature}
    return Fitted(network, params, network.curves, network.reason), notes
