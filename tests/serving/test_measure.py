"""What a bundle costs, measured in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import BundleError
from millrace.settings import Settings
from serving.measure import measure

from .conftest import Promote


def test_a_small_model_costs_little_and_every_figure_is_there(settings: Settings, promote: Promote) -> None:
    folder = Path(promote().bundle)
    cost = measure(folder, settings, rows=[[0.5, 0.1], [None, 1.0]], calls=300)
    assert 0 < cost.p50_ms <= cost.p99_ms
    assert 0 <= cost.memory_mb < 100
    files = sum(path.stat().st_size for path in folder.iterdir() if path.name in ("model.onnx", "contract.json"))
    assert cost.bundle_mb == pytest.approx(files / 1e6)


def test_a_damaged_bundle_is_not_measured(settings: Settings, promote: Promote) -> None:
    folder = Path(promote().bundle)
    (folder / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match="could not be measured"):
        measure(folder, settings, rows=[[0.5, 0.1]], calls=10)


def test_rows_of_the_wrong_width_are_told(settings: Settings, promote: Promote) -> None:
    with pytest.raises(BundleError, match="takes 2"):
        measure(Path(promote().bundle), settings, rows=[[0.5]], calls=10)


def test_nothing_is_measured_without_rows(settings: Settings, promote: Promote) -> None:
    with pytest.raises(BundleError, match="without rows"):
        measure(Path(promote().bundle), settings, rows=[])
