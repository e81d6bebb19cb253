"""The models to try: what builds them, what a search may change, and the variants that are made of one.

Declarations only; the training room fits them. Nothing of torch or scikit-learn is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import sqrt
from typing import Any, Literal

from millrace.source import check_name, require


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input of a model: a column of the encoded matrix that it is fitted and served on, or `size` of them.

    A numeric input is a float32, missing as NaN; an array-valued one is `size` columns in the array's order. A
    categorical input is the position of its value in `categories`; a missing or unseen value has the position
    `len(categories)`.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    size: int = 1


@dataclass(frozen=True, slots=True)
class Real:
    """Numbers from `low` to `high` that a search may try; `log` spreads them evenly over orders of magnitude.

    `default` is what is used without a search; None: the middle (with `log`, the geometric one).
    """

    low: float
    high: float
    default: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self)

    @property
    def start(self) -> float:
        """The value without a search."""
        middle = sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return middle if self.default is None else self.default


@dataclass(frozen=True, slots=True)
class Integer:
    """Whole numbers from `low` to `high`, both included, that a search may try; `default` and `log` as in `Real`."""

    low: int
    high: int
    default: int | None = None
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self)

    @property
    def start(self) -> int:
        """The value without a search."""
        middle = sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(middle) if self.default is None else self.default


def _check_range(given: Real | Integer) -> None:
    kind, name = type(given).__name__, f"{given.low} to {given.high}"
    require(kind, name, given.low < given.high, "low must be less than high")
    require(kind, name, not given.log or given.low > 0, "with log, low must be above 0")
    inside = given.default is None or given.low <= given.default <= given.high
    require(kind, name, inside, f"default must lie between them, not at {given.default}")


Space = Mapping[str, Sequence[Any] | Real | Integer]
"""A search space: what each parameter may be. The first of a sequence is the default, and `start` of a range."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to try. `build(inputs, **params)` returns an unfitted object with scikit-learn's `fit(X, y)` and
    `predict_proba(X)`, X of shape (rows, columns) float32 as `ModelInput` describes; y holds 0 and 1, or positions of
    the label's classes. `search` maps a parameter to the values to try. A fit that takes longer than `timeout` ends the
    training."""

    name: str
    build: Callable[..., Any]
    search: Space = field(default_factory=dict)
    timeout: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        check_name("Candidate", self.name)
        require(
            "Candidate", self.name, callable(self.build), "build must be a function (inputs, **params) -> estimator"
        )
        _check_space("Candidate", self.name, self.search)


@dataclass(frozen=True, slots=True)
class Int8:
    """The variant with weights and activations in 8 bits, calibrated on up to `rows` of the rows that it is fitted on
    (ONNX Runtime's static quantization)."""

    rows: int = 500

    def __post_init__(self) -> None:
        require("Int8", str(self.rows), self.rows >= 1, "rows must be at least 1: without any it cannot be calibrated")

    @property
    def suffix(self) -> str:
        """What the variant's name has behind its candidate's."""
        return "int8"


@dataclass(frozen=True, slots=True)
class Prune:
    """The variant without the share `amount` of each layer's channels (the ones of smallest norm), fitted again for
    `epochs`."""

    amount: float
    epochs: int = 3

    def __post_init__(self) -> None:
        require("Prune", str(self.amount), 0 < self.amount < 1, "amount is a share between 0 and 1")

    @property
    def suffix(self) -> str:
        """What the variant's name has behind its candidate's."""
        return f"prune{round(100 * self.amount)}"


@dataclass(frozen=True, slots=True)
class Distil:
    """The variant that is a smaller network, `student`, fitted on the probabilities of the candidate, its teacher.

    `weight` is the teacher's share of the loss beside the true outcomes', `temperature` what logits are divided by
    before they are compared (Hinton, Vinyals & Dean 2015). The student may have variants of its own.
    """

    student: TorchCandidate
    weight: float = 0.7
    temperature: float = 2.0

    def __post_init__(self) -> None:
        require("Distil", self.student.name, 0 < self.weight <= 1, "weight is a share between 0 and 1")
        require("Distil", self.student.name, self.temperature > 0, "temperature must be above 0")

    @property
    def suffix(self) -> str:
        """What the variant's name has behind its candidate's."""
        return self.student.name


Variant = Int8 | Prune | Distil


@dataclass(frozen=True, slots=True)
class TorchCandidate:
    """A torch network to try, fitted by the training room.

    `module(inputs, **params)` returns a `torch.nn.Module` that maps a float32 tensor (rows, columns) to logits: (rows,)
    with binary cross-entropy, or (rows, classes) with cross-entropy when the label has classes. The last tenth of the
    training rows in time stops it, after `patience` epochs without a better loss. The optimizer is AdamW; a parameter
    of `search` that is called `learning_rate`, `batch_size` or `weight_decay` replaces the one here.

    `accumulate` batches make one step, whose gradient's norm is clipped at `clip_norm`. `precision` `auto` is bf16 on
    a GPU and float32 on a CPU. `compile` is `torch.compile`; `checkpoint_activations` computes the activations of each
    child module again in the backward pass, which saves memory. `strategy` says how several processes share the work.
    `variants` are made of the fitted network and gated like any other model.
    """

    name: str
    module: Callable[..., Any]
    search: Space = field(default_factory=dict)
    max_epochs: int = 12
    batch_size: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    patience: int = 2
    clip_norm: float = 1.0
    accumulate: int = 1
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: bool = False
    checkpoint_activations: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    variants: tuple[Variant, ...] = ()
    timeout: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        check_name("TorchCandidate", self.name)
        require("TorchCandidate", self.name, callable(self.module), "module must be a function (inputs, **params)")
        for field_ in ("max_epochs", "batch_size", "patience", "accumulate"):
            require("TorchCandidate", self.name, getattr(self, field_) >= 1, f"{field_} must be at least 1")
        for field_ in ("learning_rate", "clip_norm"):
            require("TorchCandidate", self.name, getattr(self, field_) > 0, f"{field_} must be above 0")
        _check_space("TorchCandidate", self.name, self.search)


def _check_space(kind: str, name: str, space: Space) -> None:
    for parameter, values in space.items():
        listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
        rule = f"search[{parameter!r}] must be Real(…), Integer(…) or a sequence of at least one value, not {values!r}"
        require(kind, name, listed or isinstance(values, (Real, Integer)), rule)


def default_params(space: Space) -> dict[str, Any]:
    """What each parameter is without a search."""
    return {name: values.start if isinstance(values, (Real, Integer)) else values[0] for name, values in space.items()}
