"""`make` and `infra/setup.sh`: every target is explained, and a machine that cannot be set up is told why."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "infra/setup.sh"), str(folder)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


def fake_python(folder: Path, version: str, *, status: int) -> str:
    """An interpreter that knows its version and fails at anything else."""
    path = folder / f"python-{version}"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit {status}\n')
    path.chmod(0o755)
    return str(path)


def test_an_old_python_is_refused_by_name_and_version(tmp_path: Path) -> None:
    result = setup(tmp_path / "venv", PYTHON=fake_python(tmp_path, "3.9.2", status=1))
    assert result.returncode == 1
    assert "needs Python 3.11" in result.stderr
    assert "Python 3.9.2" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = setup(tmp_path / "venv", PYTHON=str(tmp_path / "python3"))
    assert (result.returncode, "python3 (not found)" in result.stderr) == (1, True)


def test_every_target_is_in_help_with_a_line() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert targets is not None
    assert sorted(re.findall(r"^make (\w+) +\S.*$", listed, re.MULTILINE)) == sorted(targets[1].split())


@pytest.mark.parametrize("script", ["infra/setup.sh", ".ci/run"])
def test_script_parses_and_is_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_every_make_target_that_ci_calls_exists() -> None:
    called = re.findall(r"\bmake ([a-z]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert called
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in called)


def test_the_lock_names_no_index_no_local_build_and_no_cuda_package() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.findall(
        r"^(?:--|nvidia|cuda|triton==|triton-windows).*|.*https?://.*|.*==\S*\+.*", lock, re.MULTILINE
    )
    assert "torch==2.13.0\n" in lock
