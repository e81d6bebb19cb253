"""What passes between the steps of a training: the rows that every model is fitted on, and a model that was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.candidates import ModelInput
from millrace.inputs import InputSpec
from training.export import Exported
from training.hardware import Hardware


@dataclass(frozen=True, slots=True)
class Rows:
    """The encoded rows to fit on, X float32 (rows, width) and y int8 (rows,), in time order, and how to fit on them.

    `times` and `known` (rows,) are each row's instant and since when its label is known (datetime64, UTC). `inputs`
    describe the columns of X to the platform, `model_inputs` to a candidate's builder. `classes` is 0 for two outcomes.
    """

    inputs: tuple[InputSpec, ...]
    model_inputs: tuple[ModelInput, ...]
    X: NDArray[np.float32]
    y: NDArray[np.int8]
    times: NDArray[np.datetime64]
    known: NDArray[np.datetime64]
    classes: int
    seed: int
    hardware: Hardware


@dataclass(frozen=True, slots=True)
class Made:
    """One model as it would serve: a candidate, or a variant `of` another model.

    `curves` are its losses and rates by epoch if it has any, `notes` what is worth recording of how it was made (the
    device and why, what a search found), `seconds` what making it took.
    """

    name: str
    exported: Exported
    params: Mapping[str, Any]
    curves: Mapping[str, Sequence[float]]
    seconds: float
    of: str = ""
    notes: Mapping[str, Any] | None = None
