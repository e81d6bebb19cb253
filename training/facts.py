"""What all models of one training share: the use case, the rows, how they are encoded, and what they are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.plan import ReadPlan
from features.training_set import TrainingSet
from millrace.budget import Budget
from millrace.contract import Contract
from millrace.errors import TrainingError
from millrace.inputs import InputSpec, describe_inputs
from millrace.outcomes import LABEL_KNOWN_AT
from millrace.prediction_log import COLUMNS, PREDICTED
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import LABEL, UseCase
from training.made import Rows
from training.options import TrainOptions
from training.provenance import Provenance, provenance
from training.split import Split
from training.warm_start import Parent

RESERVED = frozenset(COLUMNS) | {LABEL, PREDICTED}
"""Names that no feature can have."""


@dataclass(frozen=True)
class Facts:
    """What all models of one training share."""

    use_case: UseCase
    settings: Settings
    training_set: TrainingSet
    plan: ReadPlan | None
    split: Split
    as_of: datetime
    options: TrainOptions
    parent: Parent | None = None

    def _inputs(self) -> tuple[InputSpec, ...]:
        """What the fit rows show; of a parent to begin with what that one knows."""
        features = _allowed(self.training_set.features)
        if self.parent is None:
            return describe_inputs(self.split.fit, features)
        known = tuple(spec.name for spec in self.parent.inputs)
        if known != tuple(features):
            raise TrainingError(
                f"Version {self.parent.version} takes other inputs than there are now.",
                looked=f"Only one of both has: {', '.join(sorted(set(known) ^ set(features))) or 'another order'}.",
                todo="Train from scratch: leave out --from.",
            )
        return self.parent.inputs

    def folder(self, name: str) -> Path:
        """This use case's part of a folder of the home folder, made if absent."""
        folder = self.settings.folder(name) / self.use_case.name
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def contract(self) -> Contract:
        """The contract that all models have in common; name, engine and lineage are filled in for each."""
        return Contract(
            use_case=self.use_case.name,
            question=self.use_case.question,
            candidate="",
            engine="onnx",
            inputs=self._inputs(),
            trained_as_of=self.as_of,
            read_plan=self.plan.to_dict() if self.plan else {},
            classes=self.use_case.label.classes,
        )

    @cached_property
    def rows(self) -> Rows:
        """The encoded rows to fit on."""
        fit = self.split.fit
        return Rows(
            inputs=self.contract.inputs,
            model_inputs=self.contract.model_inputs,
            X=self.contract.encode_frame(fit),
            y=fit.get_column(LABEL).to_numpy(),
            times=fit.get_column(EVENT_TIME).to_numpy(),
            known=fit.get_column(LABEL_KNOWN_AT).to_numpy(),
            classes=len(self.contract.classes),
            seed=self.options.seed,
            hardware=self.options.hardware,
        )

    @property
    def budget(self) -> Budget:
        """The use case's, with the bounds that this training changes."""
        return self.use_case.budget.with_limits(self.options.budget)

    @cached_property
    def holdout(self) -> NDArray[np.float32]:
        """The encoded rows to judge on."""
        return self.contract.encode_frame(self.split.holdout)

    @cached_property
    def provenance(self) -> Provenance:
        """What the models are made from and with."""
        return provenance(self.use_case, self.settings, self.training_set, self.options)

    @cached_property
    def slices(self) -> dict[str, list[Any]]:
        """The hold-out's values of the columns that quality is sliced by."""
        rows = self.split.holdout
        return {name: rows.get_column(name).to_list() for name in self.use_case.slices if name in rows.columns}


def _allowed(features: Sequence[str]) -> Sequence[str]:
    """The features, if none has the name of a column that the prediction log and the reference sample have besides."""
    taken = sorted(set(features) & RESERVED)
    if taken:
        raise TrainingError(
            f"The feature {taken[0]!r} has the name of a column that the platform itself writes beside the features.",
            looked=f"Such names are {', '.join(sorted(RESERVED))}.",
            todo="Give it another name in the feature view or the source.",
        )
    return features
