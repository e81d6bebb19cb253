"""One training: every candidate of a use case fitted on the same rows, exported, proven, scored, tracked and bundled.

A failing candidate ends the training: nothing of it stays but runs marked as failed. What serves is decided elsewhere
(`training.promote`); this module writes staged bundles only and does not know the champion.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace.bundle import MAX_REFERENCE_ROWS, Bundle, write_bundle
from millrace.candidates import Candidate, TorchCandidate
from millrace.contract import Contract, describe_inputs
from millrace.keys import signing_key
from millrace.quality import Quality, SliceQuality, quality, slice_quality
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL, UseCase
from training.export import Exported, export
from training.fit import Fitted, Matrix, fit
from training.split import Split, split_in_time
from training.tracking import Run, Tracking, requirements


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A candidate as it would serve: its staged bundle, and its scores and quality on the hold-out by that very bundle.

    `scores` (rows,) are in the hold-out's order; `difference` is the worst |served − fitted| of the parity rows;
    `seconds` is what fitting, exporting and tracking took.
    """

    candidate: str
    baseline: bool
    bundle: Bundle
    run_id: str
    engine: str
    quality: Quality
    slices: tuple[SliceQuality, ...]
    scores: NDArray[np.float64]
    difference: float
    seconds: float


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
        return [list(row) for row in _spread(self.holdout, rows).select(names).iter_rows()]


def train(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    plan: ReadPlan,
    *,
    as_of: datetime,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Trained:
    """Train the baseline and every candidate on what was known at `as_of` (UTC), one MLflow run each.

    `progress` hears a line after each candidate. Raises `TrainingError` when the rows do not suffice (see
    `split_in_time`), or when a candidate cannot be fitted or served.
    """
    split = split_in_time(training_set.frame, use_case.training, as_of=as_of)
    job = _Job(use_case, settings, training_set, plan, split, as_of, seed)
    tracking = Tracking(settings, use_case.name)
    models: list[TrainedModel] = []
    try:
        for candidate in use_case.all_candidates:
            models.append(job.train(candidate, tracking))
            if progress is not None:
                found = models[-1]
                progress(f"{found.candidate}: log loss {found.quality.log_loss:.4f} in {found.seconds:.1f} s")
    except BaseException:
        discard(models)
        raise
    return Trained(tuple(models), split.holdout, as_of)


def discard(models: Sequence[TrainedModel]) -> None:
    """Remove the staged bundles that were not registered; MLflow keeps a copy of each with its run."""
    for model in models:
        shutil.rmtree(model.bundle.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Job:
    """What all candidates of one training share."""

    use_case: UseCase
    settings: Settings
    training_set: TrainingSet
    plan: ReadPlan
    split: Split
    as_of: datetime
    seed: int

    @cached_property
    def contract(self) -> Contract:
        """The contract that all candidates have in common; name, engine and lineage are filled in for each."""
        return Contract(
            use_case=self.use_case.name,
            question=self.use_case.question,
            candidate="",
            engine="onnx",
            inputs=describe_inputs(self.split.fit, self.training_set.features),
            trained_as_of=self.as_of,
            read_plan=self.plan.to_dict(),
        )

    @cached_property
    def matrices(self) -> tuple[Matrix, Matrix]:
        """The encoded rows to fit on and of the hold-out."""
        return self.contract.encode_frame(self.split.fit), self.contract.encode_frame(self.split.holdout)

    def train(self, candidate: Candidate | TorchCandidate, tracking: Tracking) -> TrainedModel:
        """One candidate, from rows to staged bundle."""
        began, threads = time.perf_counter(), self.settings.threads
        X, holdout = self.matrices
        y = self.split.fit.get_column(LABEL).to_numpy()
        with tracking.run(candidate.name) as run:
            fitted = fit(candidate, self.contract.model_inputs, X, y, seed=self.seed, threads=threads)
            exported = export(candidate.name, fitted.model, self.contract.inputs, X, threads=threads)
            scores = exported.engine.predict(holdout)
            bundle = self._write(candidate.name, fitted, exported, scores, run)
            labels = self.split.holdout.get_column(LABEL).to_numpy()
            model = TrainedModel(
                candidate=candidate.name,
                baseline=candidate is self.use_case.baseline,
                bundle=bundle,
                run_id=run.id,
                engine=exported.kind,
                quality=quality(labels, scores),
                slices=slice_quality(labels, scores, self._slices()),
                scores=scores,
                difference=exported.difference,
                seconds=time.perf_counter() - began,
            )
            self._log(model, fitted, run)
        return model

    def _slices(self) -> dict[str, list[Any]]:
        rows = self.split.holdout
        return {name: rows.get_column(name).to_list() for name in self.use_case.slices if name in rows.columns}

    def _write(self, name: str, fitted: Fitted, exported: Exported, scores: NDArray[np.float64], run: Run) -> Bundle:
        contract = Contract(
            **{field: getattr(self.contract, field) for field in ("use_case", "question", "inputs", "read_plan")},
            candidate=name,
            engine=exported.kind,
            trained_as_of=self.as_of,
            lineage=self._lineage(fitted, exported, run),
        )
        scored = self.split.holdout.with_columns(pl.Series("score", scores))
        return write_bundle(
            self.settings.folder("staging") / self.use_case.name / run.id,
            contract=contract,
            model=exported.model,
            reference=_spread(scored, MAX_REFERENCE_ROWS),
            key=signing_key(self.settings),
        )

    def _lineage(self, fitted: Fitted, exported: Exported, run: Run) -> dict[str, Any]:
        return {
            "run_id": run.id,
            "seed": self.seed,
            "params": {name: value if _is_plain(value) else str(value) for name, value in fitted.params.items()},
            "lake_versions": dict(self.training_set.versions),
            "fit": _stretch(self.split.fit),
            "holdout": _stretch(self.split.holdout),
            "unlabelled": self.training_set.unlabelled,
            "parity": exported.difference,
            "not_onnx_because": exported.reason,
            "made_with": requirements(),
        }

    def _log(self, model: TrainedModel, fitted: Fitted, run: Run) -> None:
        """Figures, parameters and tags in one batch; slices and the bundle as artifacts."""
        metrics = model.quality.metrics() | {"seconds": model.seconds, "parity_difference": model.difference}
        metrics |= {"roc_auc_low": model.quality.roc_auc_interval[0], "roc_auc_high": model.quality.roc_auc_interval[1]}
        tags = {
            "millrace.as_of": self.as_of.isoformat(),
            "millrace.baseline": model.baseline,
            "millrace.engine": model.engine,
            "millrace.digest": model.bundle.digest,
            "millrace.made_with": " ".join(requirements()),
        }
        tags |= {f"lake.{table}": version for table, version in self.training_set.versions.items()}
        rows = {"fit_rows": self.split.fit.height, "holdout_rows": self.split.holdout.height, "seed": self.seed}
        run.log(params=dict(fitted.params) | rows, metrics=metrics, tags=tags, curves=fitted.curves)
        slices = [{"column": one.column, "value": one.value} | one.quality.to_dict() for one in model.slices]
        run.log_json({"slices": slices}, "slices.json")
        run.log_folder(model.bundle.folder, "bundle")


def _stretch(rows: pl.DataFrame) -> dict[str, Any]:
    """Number and first and last moment of some rows, as they are told in the lineage."""
    times = rows.get_column(EVENT_TIME)
    return {"rows": rows.height, "from": times[0].isoformat(), "until": times[-1].isoformat()}


def _spread(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most `rows` rows of the frame, evenly spread over it."""
    return frame[np.linspace(0, frame.height - 1, min(frame.height, rows)).astype(int)]


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
