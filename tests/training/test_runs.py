"""A recorded run is found by MLflow's id or ours, and what it lacks is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import BundleError, TrainingError
from millrace.keys import signing_key
from millrace.settings import Settings
from training.runs import read_artifact, read_run
from training.tracking import Run, Tracking


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    """A finished run with an artifact, and with a bundle that is none."""
    folder = tmp_path / "staged"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    with Tracking(settings, "late") as tracking, tracking.run("logistic") as open_run:
        open_run.log_bytes(b"weights", "weights.safetensors")
        open_run.log_folder(folder, "model/bundle")
    return open_run


def test_an_artifact_comes_back_as_it_was_by_either_id(settings: Settings, run: Run) -> None:
    assert run.id != run.key
    assert read_artifact(settings, run.id, "weights.safetensors") == b"weights"
    assert read_artifact(settings, run.key, "weights.safetensors") == b"weights"


@pytest.mark.parametrize("name", ["none.bin", "model/none", "none/weights.safetensors"])
def test_an_artifact_that_is_not_there_is_none(settings: Settings, run: Run, name: str) -> None:
    assert read_artifact(settings, run.id, name) is None


@pytest.mark.parametrize("missing", ["0" * 32, "it's", "", "millrace-0"])
def test_a_run_that_is_not_there_has_no_artifact(settings: Settings, run: Run, missing: str) -> None:
    assert read_artifact(settings, missing, "weights.safetensors") is None


def test_a_bundle_that_is_not_whole_is_refused(settings: Settings, run: Run, tmp_path: Path) -> None:
    signing_key(settings)  # a platform that has signed bundles
    with pytest.raises(BundleError, match=r"damaged manifest\.json"):
        read_run(settings, "late", run.id, tmp_path / "into")


def test_a_run_of_another_use_case_is_not_found(settings: Settings, run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="MLflow knows no run"):
        read_run(settings, "other", run.id, tmp_path / "into")


def test_a_run_without_a_model_is_told_with_its_state(settings: Settings, tmp_path: Path) -> None:
    with Tracking(settings, "late") as tracking, pytest.raises(KeyError), tracking.run("odd") as failed:
        raise KeyError("depth")
    with pytest.raises(TrainingError, match="left no model: its state is failed"):
        read_run(settings, "late", failed.id, tmp_path / "into")
