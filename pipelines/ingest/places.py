"""Where a source's files or database lie: the setting `MILLRACE_PLACES`; how a place is shown without its secrets."""

from __future__ import annotations

import json
import re

from millrace.errors import SettingsError
from millrace.settings import Settings

_PASSWORD = re.compile(r"(://[^:/@\s]*):\S*@")
_PARAMETERS = re.compile(r"(://[^?\s]*)\?\S*")


def place_url(source: str, place: str, settings: Settings) -> str:
    """The folder or URL that the settings give for a place; `SettingsError` when they do not name it."""
    if place in settings.places:
        return settings.places[place]
    example = json.dumps({place: "a folder, an object store's URL or a database's URL"}, ensure_ascii=False)
    raise SettingsError(
        f"The source {source!r} reads from the place {place!r}, which MILLRACE_PLACES does not name.",
        looked=f"It names {', '.join(sorted(settings.places)) or 'no place'}.",
        todo=f"Set MILLRACE_PLACES='{example}'.",
    )


def shown(text: str) -> str:
    """A URL, or a message with URLs in it, as it may be shown: without passwords and parameters."""
    return _PARAMETERS.sub(r"\1", _PASSWORD.sub(r"\1:***@", text))
