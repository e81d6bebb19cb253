"""The contract of a use case: what a team declares once, and everything the platform needs to know of it.

Only frozen dataclasses and plain functions stand here. This module knows nothing of files, stores or vendors; a use
case that is merely loaded imports neither feast nor torch nor scikit-learn. All times are timezone-aware UTC instants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from millrace.budget import Budget
from millrace.candidates import Candidate, TorchCandidate
from millrace.cron import parse_cron
from millrace.errors import UseCaseError
from millrace.source import Source, check_name, require

if TYPE_CHECKING:
    import polars as pl

LABEL = "label"
"""Column of a training set: the outcome, 0 or 1, or the position among the label's classes."""


@dataclass(frozen=True, slots=True)
class Population:
    """Whose rows are predicted, and when: each row of `source`, `lead` before its `event_time`.

    The source's rows carry the join keys of the feature views and the inputs of the on-demand features.
    """

    source: Source
    lead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome to predict: `column` of `source`, joined to the population by its key.

    Boolean or 0/1; or, with `classes`, one of these names (numbers are compared as their text). A row's label exists
    from its `known_at` on; `arrives_after` is how long after its event time most labels are known (the monitoring's
    measure of a window's maturity). Where the source and what clients post disagree of a row, `holds` decides: the
    `latest` known of them, or always the `source`, once it knows.
    """

    source: Source
    column: str
    arrives_after: timedelta
    classes: tuple[str, ...] = ()
    holds: Literal["latest", "source"] = "latest"

    def __post_init__(self) -> None:
        rule = (
            "classes are at least three different names; an outcome of two is a boolean or 0/1 column without classes"
        )
        wrong = len(self.classes) in (1, 2) or len(set(self.classes)) < len(self.classes)
        require("Label", self.column, not wrong, rule)
        require("Label", self.column, self.holds in ("latest", "source"), 'holds must be "latest" or "source"')


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
class Training:
    """Which rows a model learns from: the `history` up to `as_of`, its last `holdout` for the gate."""

    history: timedelta = timedelta(days=365)
    holdout: timedelta = timedelta(days=7)
    min_rows: int = 1_000
    slice_margin: float = 0.05
    """Log loss (nats) by which a slice may be worse than under the champion before the challenger is refused."""
    presume_newer: bool = True
    """A challenger of the champion's candidate that learned from newer rows passes unless it is shown to be worse."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cron lines (UTC) of the scheduled work; an empty one is never."""

    ingest: str = "0 * * * *"
    score: str = "30 0 * * *"
    monitor: str = "0 6 * * *"

    def __post_init__(self) -> None:
        for name in ("ingest", "score", "monitor"):
            try:
                if line := getattr(self, name):
                    parse_cron(line)
            except ValueError as error:
                raise UseCaseError(
                    f"Schedule: {name} cannot be used: {error}.",
                    todo='Write minute, hour, day, month and weekday in UTC, for example "0 6 * * mon"; "" for never.',
                ) from error


@dataclass(frozen=True, slots=True)
class Monitor:
    """How a window is watched: its length, the sample it is judged on, and what counts as drift.

    A column has drifted when its test, corrected over all columns (Benjamini-Hochberg) and over the windows that share
    a reference (Bonferroni), is below `alpha`, its effect beyond chance is at least `min_effect` (Jensen-Shannon or
    normed Wasserstein distance, as Evidently gives it), and the window has at least `min_rows`. So `alpha` is the
    chance of any false alarm while one champion serves.
    """

    window: timedelta = timedelta(days=7)
    sample: int = 5_000
    alpha: float = 0.05
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
    max_unseen: float = 0.3
    """Retrain when in this share of a window's rows some input lies beyond all that the champion learned from."""
    max_surprise: float = 0.05
    """Retrain when a window's log loss is this far from what the champion's own probabilities promised (their mean
    entropy), in nats and in either direction. How hard a window is moves both alike: a bad week is no reason."""
    min_coverage: float = 0.7
    """A window with labels for a smaller share of its rows is immature: nothing is retrained on it."""
    max_age: timedelta = timedelta(days=28)
    """Retrain when the last training is this long ago, drift or not; a champion of this age counts as old."""
    even_immature: bool = False
    """Retrain on an immature window too."""
    shadow: timedelta = timedelta(days=14)
    """For how long after a retrain the replaced champion is scored beside the new one, to see what it brought."""
    stop_after: int = 2
    """So many retrains in a row that brought nothing, and no more is started until a person resumes it."""


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """A team's question, whole: see `examples/flight_delay` for one, and `docs/your-use-case.md` for each part.

    `feature_repo(source)` returns the Feast objects (entities, views, one FeatureService) that a Feast repo would
    define; `source(table)` is the Feast data source of one of `feature_tables`. A use case whose inputs all come with
    the request has none: its `request_features` name the columns of the population's source that the model sees.
    """

    name: str
    question: str
    sources: tuple[Source, ...]
    population: Population
    label: Label
    feature_tables: tuple[FeatureTable, ...] = ()
    feature_repo: Callable[[Callable[[FeatureTable], Any]], Sequence[Any]] | None = None
    request_features: tuple[str, ...] = ()
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
    "request_features": (tuple,),
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
    "request_features": (str,),
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
    if (use_case.feature_repo is None) == (not use_case.request_features):
        raise UseCaseError(
            f"Use case {use_case.name!r} must say what its models see: either a feature_repo or request_features.",
            todo="Give feature_repo for features from the store, request_features for columns that come with a row.",
        )
    if not use_case.candidates:
        raise UseCaseError(
            f"Use case {use_case.name!r} has no candidates.", todo="Add one: candidates=(Candidate(…),)."
        )
