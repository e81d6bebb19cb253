"""`millrace alerts …`: what people were told of, whom they are sent to, and whether that works."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer

from millrace import console
from millrace.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Show alerts, test where they go, and send what waits.")


@app.command("list")
def list_(
    use_case: Annotated[str, typer.Argument(metavar="USE_CASE", help="A use case's name; default: all.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many to show.")] = 50,
    json: Json = False,
) -> None:
    """Show the latest alerts.

    The open ones first; `unsent` counts the messages that no destination has taken yet.
    """
    from millrace.db import Database
    from millrace.settings import read_settings

    with closing(Database.open(read_settings())) as db:
        unsent = db.alerts.unsent()
        rows = db.alerts.newest(use_case=use_case or None, limit=limit)
    names = ("use_case", "severity", "title", "body", "count", "raised_at", "seen_at", "resolved_at")
    shown = [{name: getattr(row, name) for name in names} | {"unsent": unsent.get(row.id, 0)} for row in rows]
    console.show({"open": sum(row.resolved_at is None for row in rows), "alerts": shown}, json)


@app.command("test")
def try_(json: Json = False) -> None:
    """Send every destination of MILLRACE_ALERTS a message, now.

    Exit code 1 when one of them does not take it.
    """
    from millrace.errors import SettingsError
    from millrace.settings import read_settings
    from monitoring.alerts import destinations
    from monitoring.delivery import send_test

    settings = read_settings()
    chosen = destinations(settings.alerts)
    if not chosen:
        raise SettingsError(
            "There is nobody to tell.",
            looked="MILLRACE_ALERTS is empty.",
            todo="""Set it, for example: MILLRACE_ALERTS='{"warning": ["mailto://…"], "critical": ["slack://…"]}'.""",
        )
    found = send_test(settings, chosen)
    lines: list[dict[str, Any]] = [
        {"destination": name, "taken": not error, "error": error} for name, error in found.items()
    ]
    console.show({"destinations": lines}, json)
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def send(json: Json = False) -> None:
    """Send what waits, without its pauses and quiet hours.

    Every flow of a use case sends by itself what is due.
    """
    from millrace.db import Database
    from millrace.settings import read_settings
    from monitoring.delivery import deliver

    settings = read_settings()
    with closing(Database.open(settings)) as db:
        done = deliver(settings, db, due=None)
    failed = [{"destination": name, "error": error} for name, error in done.failed.items()]
    console.show({"sent": done.sent, "waiting": done.waiting, "dropped": done.dropped, "failed": failed}, json)
