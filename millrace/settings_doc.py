"""Writes `docs/settings.md` from the fields of `Settings`: `make docs`. Knows no setting by name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from millrace.settings import Settings

_INTRODUCTION = """# Settings

Every setting is an environment variable, read once when a process starts. A value that cannot be used stops the process
with a message that names the variable. This page is generated (`make docs`); a test keeps it equal to the code.

"""
_KINDS: dict[object, str] = {
    bool: "`true` or `false`",
    int: "number",
    float: "number",
    str: "text",
    Path: "folder",
    SecretStr: "secret",
}
_JSON: dict[object, str] = {dict: "JSON object", list: "JSON list", tuple: "JSON list"}
_BOUNDS = (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))


def settings_table() -> str:
    """The page as Markdown: a row for each setting, in the order of the code."""
    rows = [("Variable", "Holds", "Default", "What it is"), ("---",) * 4]
    for name, field in Settings.model_fields.items():
        variable = f"{Settings.model_config.get('env_prefix', '')}{name}".upper()
        rows.append((f"`{variable}`", _holds(field), _default(field), field.description or ""))
    return _INTRODUCTION + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _holds(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in _JSON:
        return _JSON[get_origin(kind)]
    known = [_KINDS[part] for part in get_args(kind) or (kind,) if part is not NoneType]
    bounds = {word: getattr(limit, name) for limit in field.metadata for name, word in _BOUNDS if hasattr(limit, name)}
    return " ".join([known[0], *(f"{word} {bound}" for word, bound in bounds.items())])


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ("", {}, [], ()):
        return "—"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(settings_table())
