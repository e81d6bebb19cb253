"""`infra/Dockerfile` without Docker: what it copies is there and not ignored, and the package it installs is whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from millrace.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "infra/Dockerfile").read_text()
IGNORED = (ROOT / "infra/Dockerfile.dockerignore").read_text().splitlines()
PACKAGES = tuple(
    pattern.removesuffix("*")
    for pattern in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"][
        "include"
    ]
)


def copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_the_image_copies_exists_and_is_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in IGNORED


def test_the_ignore_file_lets_nothing_else_in() -> None:
    assert IGNORED[1] == "*"
    assert sorted(line[1:] for line in IGNORED if line.startswith("!")) == sorted(copied())


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_of_the_project_is_in_the_image(package: str) -> None:
    assert package in copied()


def test_the_image_runs_as_a_user_without_rights() -> None:
    last_stage = DOCKERFILE.rpartition("FROM ")[2]
    assert re.findall(r"^USER (\w+)$", last_stage, re.MULTILINE) == ["millrace"]


def test_the_image_sets_only_settings_that_exist() -> None:
    variables = re.findall(r"\bMILLRACE_(\w+)=", DOCKERFILE)
    assert variables
    assert {variable.lower() for variable in variables} <= set(Settings.model_fields)


def test_image_and_setup_install_with_the_same_uv() -> None:
    setup = (ROOT / "infra/setup.sh").read_text()
    assert set(re.findall(r"uv==[\d.]+", DOCKERFILE)) == set(re.findall(r"uv==[\d.]+", setup))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the wheel that `uv pip install .` builds in the image."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    subprocess.run(
        [sys.executable, "-c", build], cwd=source, env=os.environ, check=True, capture_output=True, timeout=120
    )
    return set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_installed_package_has_every_file_of_the_source(package: str, wheel: set[str]) -> None:
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source - wheel == set()
