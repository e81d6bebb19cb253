"""The options that many commands share."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
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


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LONGEST = timedelta(days=36_500)


def span(text: str) -> timedelta:
    """A length of time such as 90d, 24h, 30m or 0s; at most a hundred years."""
    found = re.fullmatch(r"([0-9]{1,10})([smhdw])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else None
    if seconds is None or seconds > _LONGEST.total_seconds():
        raise typer.BadParameter(f"{text!r} is not a length of time; write 90d, 24h, 30m or 0s.")
    return timedelta(seconds=seconds)


AsOf = Annotated[
    datetime | None,
    typer.Option("--as-of", parser=instant, metavar="TIME", help="Act as at this moment (UTC); default: now."),
]


def now(as_of: datetime | None) -> datetime:
    """The moment to act at; with `serving`, the only place that reads the clock."""
    return as_of or datetime.now(UTC)
