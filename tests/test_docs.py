"""What is written down is so: the settings page, the README's commands, its Python blocks and its links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from millrace.cli import app
from millrace.settings_doc import settings_table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (*ROOT.glob("README.md"), *sorted((ROOT / "docs").rglob("*.md")))
COMMAND_LINE = typer.main.get_command(app)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(page: Path) -> str:
    """The fenced blocks and `inline code` of a page, each span on a line of its own."""
    text = page.read_text()
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return "\n".join([*(block for _, block in FENCE.findall(text)), *spans])


def calls(program: str) -> Iterator[tuple[str, str, str]]:
    """(page, sub-command, the rest of the line) of every call of `program` in the pages."""
    # The line's start, a prompt, or a shell word before it: output that merely mentions the program is no call.
    start = rf"^(?:\$ )?(?:[\w./-]*/)?{program} ([a-z]+)\b(.*)$"
    for page in PAGES:
        for command, rest in re.findall(start, code(page), re.MULTILINE):
            yield page.relative_to(ROOT).as_posix(), command, rest


def test_settings_page_equals_the_settings() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_table(), "run `make docs`"


def test_the_readme_shows_the_two_commands() -> None:
    assert README.exists(), "README.md is missing"
    assert {"demo", "setup"} <= {command for page, command, _ in calls("make") if page == "README.md"}


def test_every_make_target_that_is_written_down_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert [(page, target) for page, target, _ in calls("make") if target not in targets] == []


def command_of(name: str, rest: str) -> tuple[str, Any]:
    """The words of a call that name a command, and that command; None when there is no such one."""
    command = getattr(COMMAND_LINE, "commands", {}).get(name)
    for word in rest.split():
        if not hasattr(command, "commands"):
            break
        name, command = f"{name} {word}", command.commands.get(word)
    return name, command


def test_every_millrace_command_that_is_written_down_exists() -> None:
    named = [(page, *command_of(command, rest)) for page, command, rest in calls("millrace")]
    assert [(page, name) for page, name, command in named if command is None] == []


def test_every_option_of_a_millrace_command_that_is_written_down_exists() -> None:
    wrong = []
    for page, command, rest in calls("millrace"):
        name, found = command_of(command, rest)
        known = {"--help", *(option for parameter in found.params for option in parameter.opts)}
        wrong += [(page, name, option) for option in re.findall(r"--[a-z-]+", rest) if option not in known]
    assert wrong == []


def test_every_setting_that_is_written_down_exists() -> None:
    known = set(re.findall(r"MILLRACE_[A-Z_]+", settings_table()))
    written = {(page.name, name) for page in PAGES for name in re.findall(r"MILLRACE_[A-Z_]*[A-Z]", page.read_text())}
    assert {(page, name) for page, name in written if name not in known} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text()):
        if language == "python":
            compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", FENCE.sub("", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md")]
    assert numbers
    assert all(number.isdigit() for number in numbers)
    assert len(set(numbers)) == len(numbers)


def test_the_readme_shows_the_use_case_as_it_is() -> None:
    code = (ROOT / "examples" / "flight_delay" / "use_case.py").read_text().strip()
    assert f"```python\n{code}\n```" in (ROOT / "README.md").read_text()
