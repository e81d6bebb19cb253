"""Millrace: from a folder of plain Python to a model that is served, watched and kept good.

This is all that a use case may import. Importing it reads no file but the search path: it checks that the rooms
(`features`, `serving`, …) are ours, since they have plain names that another folder could shadow.
"""

from importlib.util import find_spec
from pathlib import Path

from millrace.budget import Budget, at_least, at_most
from millrace.candidates import Candidate, Distil, Int8, Integer, ModelInput, Prune, Real, TorchCandidate
from millrace.errors import MillraceError, SourceError, UseCaseError
from millrace.source import Files, Plausible, Query, Source
from millrace.usecase import FeatureTable, Label, Monitor, Population, Retrain, Schedule, Training, UseCase

__all__ = [
    "Budget",
    "Candidate",
    "Distil",
    "FeatureTable",
    "Files",
    "Int8",
    "Integer",
    "Label",
    "MillraceError",
    "ModelInput",
    "Monitor",
    "Plausible",
    "Population",
    "Prune",
    "Query",
    "Real",
    "Retrain",
    "Schedule",
    "Source",
    "SourceError",
    "TorchCandidate",
    "Training",
    "UseCase",
    "UseCaseError",
    "at_least",
    "at_most",
]

_HOME = Path(__file__).resolve().parent.parent


def _check_rooms() -> None:
    for room in ("features", "training", "serving", "monitoring", "pipelines"):
        spec = find_spec(room)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != _HOME / room:
            raise ImportError(
                f"Millrace's package {room!r} is shadowed: Python finds {found or 'nothing'} "
                f"instead of {_HOME / room}. Rename that folder or take it off PYTHONPATH."
            )


_check_rooms()
