"""A platform in a folder aside, for work that must leave the real one as it is: making a model again, or helping to.

Its stores are empty and local; its training sets read the lake that it is given.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from features.plan import ReadPlan, read_plan
from features.repo import apply, open_store
from features.training_set import TrainingSet, training_set
from millrace.lake import Lake
from millrace.settings import Settings
from millrace.usecase import UseCase


def platform_aside(home: Path, settings: Settings) -> Settings:
    """The embedded platform in `home`, with these settings otherwise: nothing of theirs is written to."""
    stores: dict[str, Any] = {"database_url": "", "mlflow_tracking_uri": "", "bundle_dir": None}
    lake: dict[str, Any] = {"lake_url": "", "lake_options": {}, "online_store": "sqlite"}
    return settings.model_copy(update=stores | lake | {"home": home})


def rows_aside(
    use_case: UseCase, settings: Settings, lake: Lake, *, as_of: datetime
) -> tuple[TrainingSet, ReadPlan | None]:
    """What a training at `as_of` learns from, read with these settings, and how its features are read online."""
    plan = None
    if use_case.feature_repo is not None:
        apply(use_case, settings)
        plan = read_plan(use_case, open_store(use_case, settings))
    since = as_of - use_case.training.history
    return training_set(use_case, settings, lake, since=since, until=as_of, as_of=as_of), plan
