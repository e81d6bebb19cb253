"""What speaks for and against each model of a training: compared on the same hold-out rows, tested, judged.

Costs come from whoever measured the staged bundles along the serving path; the rules are `training.gate`'s. This module
brings evidence and rules together and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from features.parity import Parity
from millrace.budget import Budget
from millrace.bundle import Bundle, open_bundle
from millrace.contract import Contract
from millrace.db import ModelRow
from millrace.engine import open_engine
from millrace.errors import BundleError, FeatureError
from millrace.keys import public_key
from millrace.quality import Difference, Quality, quality
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from training.gate import (
    CalibrationTest,
    ChampionOnSameRows,
    RobustnessTest,
    ScoreParity,
    SliceComparison,
    Verdict,
    calibration_test,
    compare_scores,
    compare_slices,
    compare_with_champion,
    judge,
    robustness_test,
)
from training.job import Trained, TrainedModel


@dataclass(frozen=True, slots=True)
class Cost:
    """What a bundle costs to serve, by the budget's names; by name why a figure is missing or weak, and how many calls
    a 99th percentile is of. `scores` are what it answered the hold-out's sample meanwhile, a value a row or one a
    class, where that is known."""

    figures: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    scores: Sequence[Sequence[float]] = ()


Measure = Callable[[Bundle], Cost]
"""Measures a bundle along the path that serves it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A trained model with its measured cost and its verdict."""

    model: TrainedModel
    cost: Cost
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that serves now: its scores on the hold-out, (rows,) or (rows, classes), or why it has none."""

    row: ModelRow
    bundle: Bundle | None
    scores: NDArray[Any] | None
    incomparable: str = ""

    @classmethod
    def open(cls, row: ModelRow, settings: Settings, holdout: pl.DataFrame) -> Champion:
        """A champion that cannot predict the rows keeps nobody out; it says why."""
        try:
            bundle = open_bundle(Path(row.bundle), public_key=public_key(settings))
            matrix = bundle.contract.encode_frame(holdout)
            return cls(row, bundle, open_engine(bundle, threads=settings.threads, settings=settings).predict(matrix))
        except (BundleError, FeatureError) as error:
            return cls(row, None, None, error.what)


@dataclass(frozen=True)
class Evidence:
    """One training before the gate."""

    use_case: UseCase
    settings: Settings
    trained: Trained
    budget: Budget
    parity: Parity | None
    champion: Champion | None
    measure: Measure
    as_of: datetime
    seed: int
    trained_before: datetime | None = None
    """When the last training before this one was (its `as_of`); None when there was none."""

    def judged(self) -> list[Judged]:
        """Every model, in the order of training; the baseline is judged by budget, parity and scores alone."""
        return [self._judged(model) for model in self.trained.models]

    def standing(self) -> tuple[ModelRow, Quality, Cost] | None:
        """The champion on these rows and what it costs; None when there is none to compare with."""
        if self.champion is None or self.champion.scores is None:
            return None
        return self.champion.row, quality(self.trained.labels, self.champion.scores), self._champion_cost

    def _judged(self, model: TrainedModel) -> Judged:
        cost = self.measure(model.bundle)
        named: dict[str, Any] = {
            "quality": model.quality,
            "cost": cost.figures,
            "notes": cost.notes,
            "calls": cost.calls,
            "parity": self.parity,
            "scores": self._scores(model, cost),
        }
        if model.baseline:
            return Judged(model, cost, judge(self.budget, **named))
        verdict = judge(
            self.budget,
            **named,
            baseline=self._baseline.quality if self._baseline else None,
            champion=self._against_champion(model),
            slices=self._slices(model),
            calibration=self._calibration(model),
            robustness=self._robustness(model),
        )
        return Judged(model, cost, verdict)

    def _scores(self, model: TrainedModel, cost: Cost) -> ScoreParity | None:
        """What was judged against what was answered along the path that serves."""
        return compare_scores(model.scores[self.trained.sampled()], cost.scores) if cost.scores else None

    def _against_champion(self, model: TrainedModel) -> ChampionOnSameRows | None:
        if self.champion is None:
            return None
        row, limit = self.champion.row, self.use_case.retrain.max_age
        if self.champion.scores is None:
            why = self.champion.incomparable
            return ChampionOnSameRows(row.version, self.as_of - row.as_of, limit, incomparable=why)
        return ChampionOnSameRows(
            version=row.version,
            age=self.as_of - row.as_of,
            max_age=limit,
            quality=quality(self.trained.labels, self.champion.scores),
            difference=self._differences[model.candidate],
            cost=self._champion_cost.figures,
            unchallenged=self.as_of - self.trained_before if self.trained_before else None,
            news=self._news(model),
        )

    def _news(self, model: TrainedModel) -> float | None:
        champion = self.champion.bundle if self.champion else None
        if champion is None or not self.use_case.training.presume_newer:
            return None
        return news(model.bundle.contract, champion.contract)

    def _slices(self, model: TrainedModel) -> SliceComparison | None:
        if self.champion is None or self.champion.scores is None or not self.use_case.slices:
            return None
        rows = self.trained.holdout
        columns = {name: rows.get_column(name).to_list() for name in self.use_case.slices if name in rows.columns}
        margin = self.use_case.training.slice_margin
        labels, champion = self.trained.labels, self.champion.scores
        return compare_slices(labels, model.scores, champion, columns, margin=margin, groups=self._hours)

    def _calibration(self, model: TrainedModel) -> CalibrationTest:
        return calibration_test(
            self.trained.labels,
            model.scores,
            champion=self.champion.scores if self.champion else None,
            baseline=self._baseline.scores if self._baseline else None,
            groups=self._hours,
            seed=self.seed,
        )

    def _robustness(self, model: TrainedModel) -> RobustnessTest:
        contract = model.bundle.contract
        return robustness_test(
            self._predict(model.bundle),
            contract.encode_frame(self.trained.holdout),
            self.trained.labels,
            contract.inputs,
            baseline=self._predict(self._baseline.bundle) if self._baseline else None,
            seed=self.seed,
        )

    def _predict(self, bundle: Bundle) -> Callable[[NDArray[Any]], NDArray[Any]]:
        return open_engine(bundle, threads=self.settings.threads, settings=self.settings).predict

    @cached_property
    def _baseline(self) -> TrainedModel | None:
        return next((model for model in self.trained.models if model.baseline), None)

    @cached_property
    def _differences(self) -> dict[str, Difference]:
        """Each challenger less the champion, with intervals that hold for all of them together."""
        if self.champion is None or self.champion.scores is None:
            return {}
        scores = {model.candidate: model.scores for model in self.trained.models if not model.baseline}
        return compare_with_champion(self.trained.labels, scores, self.champion.scores, self._hours, seed=self.seed)

    @cached_property
    def _champion_cost(self) -> Cost:
        """Measured beside the challengers: what it cost on another day, on another machine, says little."""
        return self.measure(self.champion.bundle) if self.champion and self.champion.bundle else Cost({})

    @cached_property
    def _hours(self) -> NDArray[Any]:
        """Hours are resampled whole: flights, payments or clicks of one hour share what happened in it."""
        hours = self.trained.holdout.select(pl.col(EVENT_TIME).dt.truncate("1h").dt.epoch("s"))
        return hours.to_series().to_numpy()


def news(challenger: Contract, champion: Contract) -> float | None:
    """Which share of the time that the challenger learned from lies after all that the champion did; None when they are
    of different candidates, or one's lineage does not say."""
    ours, theirs = challenger.lineage.get("fit"), champion.lineage.get("fit")
    if challenger.candidate != champion.candidate or not ours or not theirs:
        return None
    began, ended = (datetime.fromisoformat(ours[name]) for name in ("from", "until"))
    newer = max(ended - max(datetime.fromisoformat(theirs["until"]), began), timedelta(0))
    return newer / (ended - began) if ended > began else None
