"""The contract of a use case: what a team declares once, and everything the platform needs to know of it.

Only frozen dataclasses and plain functions stand here. This module knows nothing of files, stores or vendors; a use
case that is merely loaded imports neither feast nor torch nor scikit-learn. All times are timezone-aware UTC instants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from millrace.errors import UseCaseError
from millrace.source import Source, check_name, require

if TYPE_CHECKING:
    import polars as pl

LABEL = "label"
"""Column of a training set: the outcome, 0 or 1."""


@dataclass(frozen=True, slots=True)
class Population:
    """Whose rows are predicted, and when: each row of `source`, `lead` before its `event_time`.

    The source's rows carry the join keys of the feature views and the inputs of the on-demand features.
    """

    source: Source
    lead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome to predict: `column` (boolean or 0/1) of `source`, joined to the population by its key.

    A row's label exists from its `known_at` on; `arrives_after` is how long after its event time most labels are known
    (the monitoring's measure of a window's maturity).
    """

    source: Source
    column: str
    arrives_after: timedelta


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """One table of features in the lake.

    `build(tables)` receives the sources it `reads` by name as LazyFrames (only rows known at the stage's `as_of`) and
    returns a LazyFrame with the entity's columns, `event_time`, `known_at` and the features. `lookback` is how far
    before a feature row's event time an input row can lie and still matter; rows older than it need not be read again.
    `None` means that every input row matters (a table of plain facts).
    """

    name: str
    build: Callable[[Mapping[str, pl.LazyFrame]], pl.LazyFrame]
    reads: tuple[Source, ...]
    entity: tuple[str, ...]
    lookback: timedelta | None = None

    def __post_init__(self) -> None:
        check_name("FeatureTable", self.name)
        require(
            "FeatureTable", self.name, callable(self.build), "build must be a function (tables) -> polars.LazyFrame"
        )
        require("FeatureTable", self.name, len(self.reads) > 0, "reads must name at least one Source")
        require("FeatureTable", self.name, len(self.entity) > 0, "entity must name at least one column")


OnDemand = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]
"""A feature computed from the request: lists of equal length in and out, one entry a row, nothing else read."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One column of the encoded matrix that a model is fitted and served on.

    A numeric input is a float32, missing as NaN. A categorical input is the position of its value in `categories`;
    a missing or unseen value has the position `len(categories)`.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to try. `build(inputs, **params)` returns an unfitted object with scikit-learn's `fit(X, y)` and
    `predict_proba(X)`, X of shape (rows, inputs) float32 as `ModelInput` describes. `search` maps a parameter to the
    values to try; the first of each is the default."""

    name: str
    build: Callable[..., Any]
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Candidate", self.name)
        require(
            "Candidate", self.name, callable(self.build), "build must be a function (inputs, **params) -> estimator"
        )


@dataclass(frozen=True, slots=True)
class TorchCandidate:
    """A torch network to try, fitted by the training room.

    `module(inputs, **params)` returns a `torch.nn.Module` that maps a float32 tensor (rows, inputs) to logits (rows,).
    The positive class's loss is binary cross-entropy; the last tenth of the training rows in time stops it early.
    """

    name: str
    module: Callable[..., Any]
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    max_epochs: int = 12
    batch_size: int = 1024
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        check_name("TorchCandidate", self.name)
        require("TorchCandidate", self.name, callable(self.module), "module must be a function (inputs, **params)")


@dataclass(frozen=True, slots=True)
class Limit:
    """One number a model must keep: `metric >= bound` or `metric <= bound`."""

    metric: str
    bound: float
    sense: Literal[">=", "<="]

    def holds(self, measured: float) -> bool:
        """Whether `measured` keeps the limit; NaN never does."""
        return measured >= self.bound if self.sense == ">=" else measured <= self.bound


def at_least(**bounds: float) -> tuple[Limit, ...]:
    """Limits of the form `metric >= bound`, for a `Budget`."""
    return tuple(Limit(metric, bound, ">=") for metric, bound in bounds.items())


def at_most(**bounds: float) -> tuple[Limit, ...]:
    """Limits of the form `metric <= bound`, for a `Budget`."""
    return tuple(Limit(metric, bound, "<=") for metric, bound in bounds.items())


BUDGET_METRICS = frozenset(
    {"roc_auc", "log_loss", "brier", "calibration_error", "p50_ms", "p99_ms", "memory_mb", "bundle_mb"}
)
"""What a budget may limit: quality on the hold-out, one-row latency, resident memory added by the model, its size."""


@dataclass(frozen=True, init=False, slots=True)
class Budget:
    """What a model must be worth and may cost: `Budget(at_least(roc_auc=0.62), at_most(p99_ms=10))`."""

    limits: tuple[Limit, ...]

    def __init__(self, *groups: Iterable[Limit]) -> None:
        limits = tuple(limit for group in groups for limit in group)
        unknown = sorted({limit.metric for limit in limits} - BUDGET_METRICS)
        if unknown:
            raise UseCaseError(
                f"The budget limits {', '.join(unknown)}, which the platform does not measure.",
                looked=f"Measured are: {', '.join(sorted(BUDGET_METRICS))}.",
            )
        object.__setattr__(self, "limits", limits)


@dataclass(frozen=True, slots=True)
class Training:
    """Which rows a model learns from: the `history` up to `as_of`, its last `holdout` for the gate."""

    history: timedelta = timedelta(days=365)
    holdout: timedelta = timedelta(days=7)
    min_rows: int = 1_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cron lines (UTC) of the scheduled work."""

    ingest: str = "0 * * * *"
    score: str = "30 0 * * *"
    monitor: str = "0 6 * * *"


@dataclass(frozen=True, slots=True)
class Monitor:
    """How a window is watched: its length, the sample it is judged on, and what counts as drift.

    A column has drifted when its test, corrected over all columns (Benjamini-Hochberg), is below `alpha`, its effect
    is at least `min_effect` (Jensen-Shannon or normed Wasserstein distance, as Evidently gives it), and the window has
    at least `min_rows`.
    """

    window: timedelta = timedelta(days=7)
    sample: int = 5_000
    alpha: float = 0.01
    min_effect: float = 0.1
    min_rows: int = 500


@dataclass(frozen=True, slots=True)
class Retrain:
    """When the platform retrains by itself, and what holds it back."""

    cooldown: timedelta = timedelta(days=14)
    max_per_month: int = 3
    min_new_labels: int = 1_000
    max_growth: float = 0.15
    """Retrain when the labels that are new are this share of those known at the last training."""
    max_surprise: float = 0.05
    """Retrain when a window's log loss is this far from what the champion's own probabilities promised (their mean
    entropy), in nats and in either direction. How hard a window is moves both alike: a bad week is no reason."""
    min_coverage: float = 0.7
    """A window with labels for a smaller share of its rows is immature: nothing is retrained on it."""
    max_age: timedelta = timedelta(days=28)
    """Retrain when the last training is this long ago, drift or not; a champion of this age counts as old."""


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """A team's question, whole: see `examples/flight_delay` for one, and `docs/your-use-case.md` for each part.

    `feature_repo(source)` returns the Feast objects (entities, views, one FeatureService) that a Feast repo would
    define; `source(table)` is the Feast data source of one of `feature_tables`.
    """

    name: str
    question: str
    sources: tuple[Source, ...]
    population: Population
    label: Label
    feature_tables: tuple[FeatureTable, ...]
    feature_repo: Callable[[Callable[[FeatureTable], Any]], Sequence[Any]]
    on_demand: tuple[OnDemand, ...] = ()
    candidates: tuple[Candidate | TorchCandidate, ...]
    baseline: Candidate | None = None
    budget: Budget = field(default_factory=Budget)
    slices: tuple[str, ...] = ()
    training: Training = Training()
    schedule: Schedule = Schedule()
    monitor: Monitor = Monitor()
    retrain: Retrain = Retrain()

    def __post_init__(self) -> None:
        check_name("UseCase", self.name)
        for part, kind in _PARTS.items():
            _check_part(self.name, part, getattr(self, part), kind)
        for part, kinds in _TUPLES.items():
            for item in getattr(self, part):
                _check_part(self.name, f"each of {part}", item, kinds)
        _check_unique(self.name, "candidates", [candidate.name for candidate in self.all_candidates])
        _check_unique(self.name, "feature_tables", [table.name for table in self.feature_tables])
        _check_unique(self.name, "sources", [source.name for source in self.sources])
        _check_declared(self)

    @property
    def all_candidates(self) -> tuple[Candidate | TorchCandidate, ...]:
        """The candidates, with the baseline first when there is one."""
        return ((self.baseline,) if self.baseline else ()) + self.candidates


_PARTS: dict[str, tuple[type, ...]] = {
    "question": (str,),
    "sources": (tuple,),
    "population": (Population,),
    "label": (Label,),
    "feature_tables": (tuple,),
    "candidates": (tuple,),
    "on_demand": (tuple,),
    "baseline": (Candidate, type(None)),
    "budget": (Budget,),
    "slices": (tuple,),
    "training": (Training,),
    "schedule": (Schedule,),
    "monitor": (Monitor,),
    "retrain": (Retrain,),
}
_TUPLES: dict[str, tuple[type, ...]] = {
    "sources": (Source,),
    "feature_tables": (FeatureTable,),
    "candidates": (Candidate, TorchCandidate),
    "slices": (str,),
}


def _check_part(use_case: str, part: str, value: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise UseCaseError(f"Use case {use_case!r}: {part} must be {wanted}, not {type(value).__name__}.")


def _check_unique(use_case: str, part: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UseCaseError(f"Use case {use_case!r}: {part} names {', '.join(twice)} more than once.")


def _check_declared(use_case: UseCase) -> None:
    """What population, label and feature tables read is among `sources`, and there is something to train."""
    used = {use_case.population.source.name, use_case.label.source.name}
    used |= {source.name for table in use_case.feature_tables for source in table.reads}
    missing = sorted(used - {source.name for source in use_case.sources})
    if missing:
        raise UseCaseError(
            f"Use case {use_case.name!r} uses the source {', '.join(missing)}, which is not among its sources.",
            todo=f"Add it: sources=(…, {', '.join(missing)}).",
        )
    if use_case.label.source.key != use_case.population.source.key:
        raise UseCaseError(
            f"Use case {use_case.name!r}: the label's source has the key {use_case.label.source.key}, "
            f"the population's {use_case.population.source.key}; labels are joined by key, so they must be the same."
        )
    if not use_case.candidates:
        raise UseCaseError(
            f"Use case {use_case.name!r} has no candidates.", todo="Add one: candidates=(Candidate(…),)."
        )
