"""What a model was made from and with is named so that a difference shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from features.training_set import TrainingSet
from millrace import UseCase
from millrace.lake import Lake, open_lake
from millrace.settings import Settings
from training.options import TrainOptions
from training.provenance import code_of, provenance, rows_digest, table_input


@pytest.fixture
def lake(settings: Settings) -> Lake:
    found = open_lake(settings, "late")
    found.append("raw/trips", pl.DataFrame({"id": [1, 2]}))
    found.append("raw/trips", pl.DataFrame({"id": [3]}))
    return found


def git(folder: Path, *arguments: str) -> None:
    named = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *named, *arguments], check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A use case's folder in a repository of its own."""
    inside = tmp_path / "repository" / "late"
    inside.mkdir(parents=True)
    (inside / "use_case.py").write_text("one = 1\n")
    git(inside, "init")
    git(inside, "add", ".")
    git(inside, "commit", "-m", "first")
    return inside


def test_code_at_a_commit_is_clean(folder: Path) -> None:
    found = code_of(folder)
    assert (len(found.commit), found.dirty) == (40, False)


def test_code_that_differs_from_its_commit_is_dirty_and_has_another_digest(folder: Path) -> None:
    before = code_of(folder)
    (folder / "use_case.py").write_text("one = 2\n")
    found = code_of(folder)
    assert (found.commit, found.dirty) == (before.commit, True)
    assert found.digest != before.digest


def test_a_new_file_is_a_difference(folder: Path) -> None:
    before = code_of(folder)
    (folder / "more.py").write_text("")
    assert code_of(folder).dirty
    assert code_of(folder).digest != before.digest


def test_a_change_elsewhere_in_the_repository_is_none(folder: Path) -> None:
    (folder.parent / "notes.txt").write_text("x")
    assert not code_of(folder).dirty


def test_code_in_no_repository_has_a_digest_alone(tmp_path: Path) -> None:
    (tmp_path / "use_case.py").write_text("one = 1\n")
    found = code_of(tmp_path)
    assert (found.commit, found.dirty, len(found.digest)) == ("", False, 32)


def test_without_git_code_has_a_digest_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    found = code_of(folder)
    assert (found.commit, len(found.digest)) == ("", 32)


def test_a_tables_version_has_the_same_digest_every_time_and_another_version_another(lake: Lake) -> None:
    first, again, other = (table_input(lake, "raw/trips", version) for version in (0, 0, 1))
    assert first == again
    assert first.digest != other.digest
    assert (first.version, first.source) == (0, lake.uri("raw/trips"))
    assert len(first.digest) == 32  # MLflow takes 36 characters


def test_a_damaged_seal_is_no_hindrance(lake: Lake) -> None:
    for seal in Path(lake.uri("raw/trips")).glob("_seals/*"):
        seal.write_text("{")
    assert table_input(lake, "raw/trips", 1).digest


def test_a_table_that_is_not_there_is_named_by_its_version(lake: Lake) -> None:
    assert table_input(lake, "raw/none", 3).digest == "version-3"


def test_the_rows_digest_does_not_depend_on_their_order(use_case: UseCase, training_set: TrainingSet) -> None:
    frame = training_set.frame
    assert rows_digest(use_case, frame) == rows_digest(use_case, frame.sample(fraction=1, shuffle=True, seed=1))
    changed = frame.with_columns(delay=pl.when(pl.col("id") == 5).then(99.0).otherwise("delay"))
    assert rows_digest(use_case, frame) != rows_digest(use_case, changed)


def test_everything_is_json_and_fits_mlflows_tags(
    use_case: UseCase, settings: Settings, lake: Lake, training_set: TrainingSet
) -> None:
    found = provenance(use_case, settings, replace(training_set, versions={"raw/trips": 1}), TrainOptions(seed=4))
    told = json.loads(json.dumps(found.to_dict()))
    assert told["options"]["seed"] == 4
    assert told["locked"] == "requirements.lock"
    assert [(one["name"], one["version"]) for one in told["inputs"]] == [("raw/trips", 1)]
    assert {"cpu", "cores"} <= set(told["machine"])
    tags = found.tags()
    assert tags["lake.raw/trips"] == "1"
    assert json.loads(tags["millrace.machine"]) == told["machine"]
    assert max(map(len, tags.values())) < 5_000


def test_a_use_cases_own_commit_is_the_runs(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = ModuleType("millrace_use_case_late")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    tags = provenance(use_case, settings, training_set, TrainOptions()).tags()
    assert tags["mlflow.source.git.commit"] == code_of(folder).commit
    assert re.fullmatch("[0-9a-f]{40}", tags["mlflow.source.git.commit"])
