"""The options that many commands share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="USE_CASE", help="A use case's name or folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]


def instant(text: str) -> datetime:
    """An ISO date or time; without a zone it is UTC."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a date or time; write 2013-04-01 or 2013-04-01T06:00:00Z."
        ) from error
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


AsOf = Annotated[
    datetime | None,
    typer.Option("--as-of", parser=instant, metavar="TIME", help="Act as at this moment (UTC); default: now."),
]


def now(as_of: datetime | None) -> datetime:
    """The moment to act at; with `serving`, the only place that reads the clock."""
    return as_of or datetime.now(UTC)
