"""A model that was made becomes one that can be judged: scored on the hold-out, bundled, and recorded with its run.

This module knows nothing of fitting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millrace.bundle import MAX_REFERENCE_ROWS, Bundle, write_bundle
from millrace.contract import Contract
from millrace.keys import signing_key
from millrace.model_card import render_card
from millrace.prediction_log import PREDICTED
from millrace.quality import Quality, SliceQuality, quality, slice_quality
from millrace.registry import log_model_files
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL
from training.facts import Facts
from training.made import Made
from training.tracking import Run, requirements

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model as it would serve: its staged bundle, and its scores and quality on the hold-out by that very bundle.

    `candidate` is its name, `of` the model that it is a variant of. `scores`, (rows,) or (rows, classes), are in the
    hold-out's order; `difference` is the worst |served − fitted| of the parity rows; `seconds` is what making and
    recording it took.
    """

    candidate: str
    baseline: bool
    bundle: Bundle
    run_id: str
    engine: str
    quality: Quality
    slices: tuple[SliceQuality, ...]
    scores: Scores
    difference: float
    seconds: float
    of: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: the candidate that it is or is a variant of, that one's parameters and run, the digest
    of its weights (empty: none are kept), and the registered version whose weights it began with."""

    root: str
    params: Mapping[str, Any]
    run_id: str
    weights: str = ""
    parent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the lineage."""
        told = {"root": self.root, "root_params": _plain(self.params), "root_run_id": self.run_id}
        return told | {"weights_sha256": self.weights, "parent": self.parent}


def record(facts: Facts, made: Made, run: Run, origin: Origin, *, baseline: Quality | None) -> TrainedModel:
    """Score the model on the hold-out, write its bundle and log both with its run.

    `baseline` is the baseline's quality, None when this is the baseline or there is none.
    """
    scores = made.exported.engine.predict(facts.holdout)
    labels = facts.split.holdout.get_column(LABEL).to_numpy()
    found, slices = quality(labels, scores), slice_quality(labels, scores, facts.slices)
    contract = _contract(facts, made, origin, run)
    card = render_card(contract, quality=found, slices=slices, budget=facts.budget, baseline=baseline)
    model = TrainedModel(
        candidate=made.name,
        baseline=facts.use_case.baseline is not None and made.name == facts.use_case.baseline.name,
        bundle=_write(facts, contract, made.exported.model, scores, card, run),
        run_id=run.id,
        engine=made.exported.kind,
        quality=found,
        slices=slices,
        scores=scores,
        difference=made.exported.difference,
        seconds=made.seconds,
        of=made.of,
    )
    _log(facts, made, model, run)
    return model


def spread(height: int, rows: int) -> NDArray[np.int64]:
    """The places of at most `rows` of so many rows, evenly spread over them."""
    return np.linspace(0, height - 1, min(height, rows)).astype(np.int64)


def _contract(facts: Facts, made: Made, origin: Origin, run: Run) -> Contract:
    shared = ("use_case", "question", "inputs", "read_plan", "classes", "trained_as_of")
    return Contract(
        **{field: getattr(facts.contract, field) for field in shared},
        candidate=made.name,
        engine=made.exported.kind,
        lineage=_lineage(facts, made, run) | origin.to_dict(),
    )


def _write(facts: Facts, contract: Contract, model: bytes, scores: Scores, card: str, run: Run) -> Bundle:
    scored = _with_scores(facts.split.holdout, contract, scores)
    return write_bundle(
        facts.folder("staging") / run.key,
        contract=contract,
        model=model,
        reference=scored[spread(scored.height, MAX_REFERENCE_ROWS)],
        key=signing_key(facts.settings),
        card=card,
    )


def _with_scores(rows: pl.DataFrame, contract: Contract, scores: Scores) -> pl.DataFrame:
    """The rows with `score`; of classes that of the most probable one, whose name is `predicted`, as in the log."""
    if not contract.classes:
        return rows.with_columns(pl.Series("score", scores))
    names = [contract.classes[code] for code in scores.argmax(axis=1)]
    return rows.with_columns(pl.Series("score", scores.max(axis=1)), pl.Series(PREDICTED, names))


def _lineage(facts: Facts, made: Made, run: Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "seed": facts.options.seed,
        "params": _plain(made.params),
        "variant_of": made.of,
        "lake_versions": dict(facts.training_set.versions),
        "fit": _stretch(facts.split.fit),
        "holdout": _stretch(facts.split.holdout),
        "unlabelled": facts.training_set.unlabelled,
        "parity": made.exported.difference,
        "not_onnx_because": made.exported.reason,
        "made_with": requirements(),
        "notes": dict(made.notes or {}),
        "provenance": facts.provenance.to_dict(),
    }


def _log(facts: Facts, made: Made, model: TrainedModel, run: Run) -> None:
    """Figures, parameters and tags in one batch; slices and the bundle as artifacts."""
    metrics = model.quality.metrics() | {"seconds": model.seconds, "parity_difference": model.difference}
    for name in ("roc_auc", "log_loss", "accuracy"):
        low, high = getattr(model.quality, f"{name}_interval")
        metrics |= {f"{name}_low": low, f"{name}_high": high}
    tags = {
        "millrace.as_of": facts.as_of.isoformat(),
        "millrace.baseline": model.baseline,
        "millrace.engine": model.engine,
        "millrace.device": (made.notes or {}).get("device", ""),
        "millrace.variant_of": model.of,
        "millrace.digest": model.bundle.digest,
        "millrace.made_with": " ".join(requirements()),
    }
    tags |= facts.provenance.tags()
    split = facts.split
    rows = {"fit_rows": split.fit.height, "holdout_rows": split.holdout.height, "seed": facts.options.seed}
    run.log(params=dict(made.params) | rows, metrics=metrics, tags=tags, curves=made.curves)
    slices = [{"column": one.column, "value": one.value} | one.quality.to_dict() for one in model.slices]
    run.log_json({"slices": slices}, "slices.json")
    run.log_inputs(facts.provenance.inputs)
    log_model_files(run, model.bundle, requirements())


def _stretch(rows: pl.DataFrame) -> dict[str, Any]:
    """Number and first and last moment of some rows, as they are told in the lineage."""
    times = rows.get_column(EVENT_TIME)
    return {"rows": rows.height, "from": times[0].isoformat(), "until": times[-1].isoformat()}


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON: what is no plain value is its text."""
    plain = (bool, int, float, str, type(None))
    return {name: value if isinstance(value, plain) else str(value) for name, value in params.items()}
