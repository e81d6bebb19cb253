"""What a model was made from and with: the lake's tables with digests, the code, the libraries, the machine.

Written down so that `millrace reproduce` can make the model again and say what is different now. It reads; it knows
nothing of models or of MLflow.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import polars as pl

import millrace
from features.training_set import TrainingSet
from millrace.digest import content_digest
from millrace.lake import Lake, open_lake
from millrace.lake.files import TableFiles
from millrace.settings import Settings
from millrace.source import EVENT_TIME
from millrace.usecase import UseCase
from training.hardware import describe_machine
from training.options import TrainOptions

_GIT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class TableInput:
    """A version of one of the lake's tables. `digest` names the bytes of its files: their paths and seals."""

    name: str
    version: int
    digest: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Code:
    """Where code stood: the last commit of its repository (empty: it is in none, or git cannot tell), whether files of
    the folder differed from it, and the digest of the folder's Python files whatever git says."""

    commit: str
    dirty: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that one training's models have in common.

    `rows` is the digest of the training set's rows. `lock` is that of `requirements.lock` where the platform runs from
    its repository, else that of the installed distributions; `locked` says which.
    """

    use_case: Code
    platform: Code
    lock: str
    locked: str
    inputs: tuple[TableInput, ...]
    rows: str
    machine: Mapping[str, Any]
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def tags(self) -> dict[str, str]:
        """What is worth searching runs by; the first is MLflow's own name for it."""
        return {
            "mlflow.source.git.commit": self.use_case.commit or self.platform.commit,
            "millrace.dirty": str(self.use_case.dirty or self.platform.dirty).lower(),
            "millrace.lock": self.lock,
            "millrace.rows": self.rows,
            "millrace.machine": json.dumps(dict(self.machine)),
            "millrace.options": json.dumps(dict(self.options)),
            **{f"lake.{one.name}": str(one.version) for one in self.inputs},
        }


def provenance(use_case: UseCase, settings: Settings, rows: TrainingSet, options: TrainOptions) -> Provenance:
    """Of a training of these rows with these options, as of now."""
    lock, locked = _lock()
    lake = open_lake(settings, use_case.name)
    return Provenance(
        use_case=code_of(_folder(use_case)),
        platform=_platform(),
        lock=lock,
        locked=locked,
        inputs=tuple(table_input(lake, name, version) for name, version in sorted(rows.versions.items())),
        rows=rows_digest(use_case, rows.frame),
        machine=describe_machine(),
        options=options.to_dict(),
    )


def rows_digest(use_case: UseCase, frame: pl.DataFrame) -> str:
    """The digest of a training set's rows, whatever their order."""
    return content_digest(frame, [EVENT_TIME, *use_case.population.source.key])


def table_input(lake: Lake, name: str, version: int) -> TableInput:
    """A version of a table with the digest of its files; where one has no seal, its path stands for it.

    No file is read: a path is used once, and the seal beside it is the SHA-256 of what was written there.
    """
    if not lake.exists(name):
        return TableInput(name, version, f"version-{version}", lake.uri(name))
    seals = TableFiles(lake.uri(name), lake.options).seals()
    listed = json.dumps([(path, seals.get(path, "")) for path in sorted(lake.files(name, version=version))])
    return TableInput(name, version, hashlib.sha256(listed.encode()).hexdigest()[:32], lake.uri(name))


_ROOMS = ("millrace", "features", "training", "serving", "monitoring", "pipelines")


def code_of(folder: Path | None, *, below: tuple[str, ...] = (".",)) -> Code:
    """Where the code in a folder stands, of its sub-folders `below`."""
    if folder is None:
        return Code("", False, "")
    files = sorted(file for part in below for file in (folder / part).rglob("*.py") if "__pycache__" not in file.parts)
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"\n{file.relative_to(folder).as_posix()}:{len(content)}\n".encode() + content)
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", *below) if commit else None
    return Code(commit or "", bool(changed), digest.hexdigest()[:32])


def _platform() -> Code:
    """The platform's own code. Installed below somebody's repository, it is not at that one's commit."""
    root = Path(millrace.__file__).parents[1]
    found = code_of(root, below=_ROOMS)
    return found if (root / "pyproject.toml").is_file() else Code("", False, found.digest)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None when there is no git, no repository, or no answer."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  # git itself, and arguments of ours
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()


def _folder(use_case: UseCase) -> Path | None:
    """The folder that the use case was loaded from; None for one that was put together elsewhere."""
    package = sys.modules.get(f"millrace_use_case_{use_case.name}")
    places = list(getattr(package, "__path__", []))
    return Path(places[0]) if places else None


@cache
def _lock() -> tuple[str, str]:
    file = Path(millrace.__file__).parents[1] / "requirements.lock"
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest(), "requirements.lock"
    names = sorted(f"{one.metadata['Name']}=={one.version}" for one in distributions())
    return hashlib.sha256("\n".join(names).encode()).hexdigest(), "installed distributions"
