"""One training: every candidate of a use case fitted on the same rows, exported, proven, scored, tracked and bundled.

A failing candidate ends the training: nothing of it stays but runs marked as failed. What serves is decided elsewhere
(`training.promote`); this module writes staged bundles only and does not know the champion.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace.candidates import Candidate, TorchCandidate
from millrace.settings import Settings
from millrace.usecase import LABEL, UseCase
from training.export import export
from training.facts import Facts
from training.fit import Fitted, fit
from training.made import Made
from training.options import TrainOptions
from training.record import Origin, TrainedModel, record, spread
from training.search import Found, search
from training.split import split_in_time
from training.tracking import Tracking
from training.variants import make_variants
from training.warm_start import WEIGHTS, Parent, digest, weights_of

__all__ = ["Trained", "TrainedModel", "discard", "train"]

Tell = Callable[[str], None]
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Trained:
    """The models of one training, and the hold-out they were all measured on (features and `label`, in time order)."""

    models: tuple[TrainedModel, ...]
    holdout: pl.DataFrame
    as_of: datetime

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """The hold-out's outcomes (rows,)."""
        return self.holdout.get_column(LABEL).to_numpy()

    def sample(self, rows: int = 1_000) -> list[list[Any]]:
        """Up to `rows` hold-out rows, evenly spread, as plain values in the contract's order: what measuring sends."""
        names = self.models[0].bundle.contract.names
        return [list(row) for row in self.holdout[self.sampled(rows)].select(names).iter_rows()]

    def sampled(self, rows: int = 1_000) -> NDArray[np.int64]:
        """The places of the sample's rows in the hold-out."""
        return spread(self.holdout.height, rows)


def train(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    plan: ReadPlan | None,
    *,
    as_of: datetime,
    options: TrainOptions = TrainOptions(),  # noqa: B008  # frozen, and so shared safely
    parent: Parent | None = None,
    tracking: Tracking | None = None,
    progress: Tell | None = None,
) -> Trained:
    """Train the baseline and every candidate on what was known at `as_of` (UTC), one MLflow run a model.

    `plan` is None without a feature store. The network that `parent` is of begins with its weights. `tracking` is
    MLflow by default. `progress` hears a line after each trial of a search and each model. Raises `TrainingError` when
    the rows do not suffice (see `split_in_time`), or when a candidate cannot be fitted or served.
    """
    classes = len(use_case.label.classes)
    split = split_in_time(training_set.frame, use_case.training, as_of=as_of, classes=classes)
    facts = Facts(use_case, settings, training_set, plan, split, as_of, options, parent)
    models, tell = list[TrainedModel](), progress or _nobody
    try:
        with tracking or Tracking(settings, use_case.name) as tracked:
            job = _Job(facts, tracked, tell)
            for candidate in use_case.all_candidates:
                for model in job.train(candidate, models):
                    models.append(model)
                    tell(f"{model.candidate}: log loss {model.quality.log_loss:.4f} in {model.seconds:.1f} s")
    except BaseException:
        discard(models)
        raise
    shutil.rmtree(facts.folder(_CHECKPOINTS))
    known = [replace(model, run_id=tracked.id_of(model.run_id)) for model in models]  # MLflow may have been away
    return Trained(tuple(known), split.holdout, as_of)


def discard(models: Sequence[TrainedModel]) -> None:
    """Remove the staged bundles that were not registered; MLflow keeps a copy of each with its run."""
    for model in models:
        shutil.rmtree(model.bundle.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """One training at work."""

    facts: Facts
    tracking: Tracking
    tell: Tell

    def train(self, candidate: Candidate | TorchCandidate, before: Sequence[TrainedModel]) -> Iterator[TrainedModel]:
        """One candidate and its variants, from rows to staged bundles; `before` are the models made already."""
        facts = self.facts
        baseline = next((model.quality for model in before if model.baseline), None)
        with self.tracking.run(candidate.name) as run:
            fitted, made, found = self._make(candidate)
            weights, parent = weights_of(fitted.model), self._parent_of(candidate)
            begun_with = parent.version if parent else None
            origin = Origin(candidate.name, fitted.params, run.id, digest(weights), begun_with)
            if weights:
                run.log_bytes(weights, WEIGHTS)
            if found.trials:
                run.log_json(found.to_dict(), "search.json")
            yield record(facts, made, run, origin, baseline=baseline)
        if isinstance(candidate, TorchCandidate):
            for variant in make_variants(candidate, fitted, made.exported, facts.rows, name=candidate.name):
                with self.tracking.run(variant.name) as run:
                    yield record(facts, variant, run, origin, baseline=baseline)

    def _make(self, candidate: Candidate | TorchCandidate) -> tuple[Fitted, Made, Found]:
        """The candidate with the best parameters there are, fitted, exported and proven."""
        rows, began, parent = self.facts.rows, time.perf_counter(), self._parent_of(candidate)
        found = self._search(candidate)
        fitted = fit(
            candidate,
            rows.model_inputs,
            rows.X,
            rows.y,
            classes=rows.classes,
            seed=rows.seed,
            hardware=rows.hardware,
            params=found.params,
            checkpoints=self.facts.folder(_CHECKPOINTS) / candidate.name,
            resume=self.facts.options.resume,
            parent=parent.weights if parent else None,
        )
        threads = rows.hardware.threads
        exported = export(candidate.name, fitted.model, rows.inputs, rows.X, classes=rows.classes, threads=threads)
        notes = {"device": fitted.reason} if fitted.reason else {}
        if found.trials:
            notes["search"] = f"{len(found.trials)} trials: {found.stopped}"
        seconds = time.perf_counter() - began
        return fitted, Made(candidate.name, exported, fitted.params, fitted.curves, seconds, notes=notes), found

    def _search(self, candidate: Candidate | TorchCandidate) -> Found:
        """What to fit the candidate with; one that begins with a parent's weights has that one's parameters."""
        facts, rows, parent = self.facts, self.facts.rows, self._parent_of(candidate)
        if parent is not None:
            return Found(parent.params, nan, (), f"it begins with version {parent.version}")

        def heard(done: int, total: int, best: float | None) -> None:
            if done:
                told = "" if best is None else f", best log loss {best:.4f}"
                bar = "█" * round(20 * done / total)
                self.tell(f"{candidate.name}: {bar:░<20} trial {done} of {total}{told}")

        return search(
            candidate,
            rows.model_inputs,
            rows.X,
            rows.y,
            times=rows.times,
            known=rows.known,
            trials=0 if candidate is facts.use_case.baseline else facts.options.trials,
            storage=f"sqlite:///{facts.folder('search') / 'trials.db'}",
            name=candidate.name,
            classes=rows.classes,
            timeout=facts.options.timeout,
            seed=rows.seed,
            hardware=rows.hardware,
            progress=heard,
        )

    def _parent_of(self, candidate: Candidate | TorchCandidate) -> Parent | None:
        """What this candidate begins with."""
        parent = self.facts.parent
        return parent if parent is not None and parent.candidate == candidate.name else None


def _nobody(_: str) -> None:
    """Nobody listens."""
