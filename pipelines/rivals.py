"""The naive policies of a replay at work: each trains when its calendar says so, and scores the same rows as the loop.

What several policies (and the loop) train as of the same moment is one training: the same rows and seed give the same
model. What a rival trains lies in a folder of its own; the loop's registry, database and lake hear nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from features.training_set import labels
from millrace.bundle import Bundle
from millrace.engine import open_engine
from millrace.errors import MillraceError
from millrace.outcomes import ROW_KEY, attach, posted
from millrace.prediction_log import TABLE, row_keys
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from pipelines.aside import platform_aside, rows_aside
from pipelines.models import measuring
from pipelines.policies import LOOP, Standing, due, standings
from pipelines.scoring import bundle_of
from pipelines.workspace import Workspace
from serving.batch.score import score_frame
from training.gate.limits import check_limits
from training.job import Trained, TrainedModel, discard, train
from training.tracking import Untracked


@dataclass
class Rivals:
    """The policies beside the loop of one replay, from its first champion on.

    A trained model serves a policy when it keeps its budget; the gate's other questions are not asked. Of the models of
    one training the best on the hold-out serves; where the loop has trained as of the same moment, the one that it
    registered.
    """

    ws: Workspace
    policies: tuple[str, ...]
    first: Bundle
    serving: dict[str, Bundle] = field(init=False)
    trainings: dict[str, int] = field(init=False)
    models: dict[str, int] = field(init=False)
    _scored: list[pl.DataFrame] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.serving = dict.fromkeys(self.policies, self.first)
        self.trainings = dict.fromkeys(self.policies, 0)
        self.models = dict.fromkeys(self.policies, 0)

    def score(self, start: datetime, end: datetime) -> None:
        """Score the rows that the loop has logged for instants in [start, end) with each policy's model."""
        inside = pl.col(EVENT_TIME).is_between(start, end, closed="left")
        logged = self.ws.lake.scan(TABLE).filter(inside).collect().unique(ROW_KEY, keep="last", maintain_order=True)
        scores = {bundle.folder: _scores(self.ws.settings, bundle, logged) for bundle in self.serving.values()}
        columns = [scores[bundle.folder].alias(policy) for policy, bundle in self.serving.items()]
        self._scored.append(logged.select(ROW_KEY, EVENT_TIME, pl.col("score").alias(LOOP)).with_columns(columns))

    def train(self, week: int, as_of: datetime) -> bool:
        """At the end of a week (the first is number 1), as of `as_of`, after the loop has decided; whether any did."""
        training = [policy for policy in self.policies if due(policy, week)]
        if not training:
            return False
        made = self._made_by_the_loop(as_of) or self._make(as_of)
        for policy in training:
            self.trainings[policy] += 1
            if made is not None:
                self.models[policy] += 1
                self.serving[policy] = made
        return True

    def standings(self, as_of: datetime) -> list[Standing]:
        """How all policies stand by the labels known at `as_of`."""
        name = self.ws.use_case.name
        key = self.ws.use_case.population.source.key
        known = labels(self.ws.use_case, self.ws.lake, as_of=as_of)
        known = known.with_columns(row_keys(key, known.schema)).drop(key)
        statements = [known, *posted(self.ws.use_case.label, self.ws.lake, as_of=as_of)]
        attached = attach(pl.concat(self._scored), statements).frame
        trained = {LOOP: len(self.ws.db.runs(name, "train")) - 1}
        served = {LOOP: len(self.ws.db.champions(name)) - 1}
        return standings(attached, self.policies, trained | self.trainings, served | self.models)

    def _made_by_the_loop(self, as_of: datetime) -> Bundle | None:
        """The version that the loop's own training of this moment registered, if it keeps its budget."""
        rows = [row for row in self.ws.db.models(self.ws.use_case.name) if row.as_of == as_of]
        kept = [row for row in rows if all(limit["passed"] or limit["waived"] for limit in row.verdict["limits"])]
        return bundle_of(self.ws, kept[0].version) if kept else None

    def _make(self, as_of: datetime) -> Bundle | None:
        """The best model of a training that keeps its budget; None when none does."""
        aside = platform_aside(self.ws.settings.home / "rivals", self.ws.settings)
        rows, plan = rows_aside(self.ws.use_case, self.ws.settings, self.ws.lake, as_of=as_of)
        trained = train(self.ws.use_case, aside, rows, plan, as_of=as_of, tracking=Untracked())
        best = _best_within_budget(self.ws.use_case, aside, trained)
        discard([model for model in trained.models if model is not best])
        return best.bundle if best else None


def check_comparable(use_case: UseCase, policies: Sequence[str]) -> None:
    """Raise `MillraceError` when naive policies are asked for that cannot be compared by log loss."""
    if policies and use_case.label.classes:
        raise MillraceError(
            f"The policies of {use_case.name} cannot be compared by log loss: its label has classes.",
            looked="The prediction log has the probability of the predicted class only.",
            todo="Leave out --beside.",
        )


def _best_within_budget(use_case: UseCase, settings: Settings, trained: Trained) -> TrainedModel | None:
    measured = measuring(settings, trained, None)
    for model in sorted(trained.models, key=lambda one: one.quality.log_loss):
        if model.baseline:
            continue
        cost = measured(model.bundle)
        limits = check_limits(use_case.budget, model.quality, cost.figures, calls=cost.calls, notes=cost.notes)
        if all(limit.passed or limit.waived for limit in limits):
            return model
    return None


def _scores(settings: Settings, bundle: Bundle, rows: pl.DataFrame) -> pl.Series:
    """The scores of logged rows, which have the inputs of every model that served."""
    engine = open_engine(bundle, threads=settings.threads, settings=settings)
    return pl.Series(score_frame(bundle.contract, engine, rows))
