"""What the platform decided: list it, explain it, and let it go on where it has stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, now

if TYPE_CHECKING:
    from millrace.db import Database

app = typer.Typer()


@app.command()
def decisions(
    use_case: Name,
    everything: Annotated[bool, typer.Option("--all", help="Also the decisions to do nothing.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 20,
    json: Json = False,
) -> None:
    """Show what was decided, and what came of it.

    Retrains, alerts, promotions and what was held back, with the predicted and the realised gain.
    """
    from pipelines.explaining import list_decisions

    with _database(use_case) as (db, name):
        console.show(list_decisions(db, name, everything=everything, limit=limit), json)


@app.command()
def explain(
    decision: Annotated[int, typer.Argument(metavar="DECISION", help="Its id: millrace decisions USE_CASE.")],
    json: Json = False,
) -> None:
    """Explain a decision.

    What was seen, what spoke for and against, what was done and gained; and whether today's rules decide alike.
    """
    from pipelines.explaining import explain as act

    with _database() as (db, _):
        found = act(db, decision)
    console.show(found if json else _for_people(found), json)


@app.command()
def resume(
    use_case: Name,
    why: Annotated[str, typer.Option("--why", help="What was found and done; recorded.")],
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Let retrains go on that were stopped.

    They stop, and a person is called, when the last ones in a row have brought nothing.
    """
    from pipelines.explaining import resume as act

    moment: datetime = now(as_of)
    with _database(use_case) as (db, name):
        console.show(act(db, name, as_of=moment, why=why), json)


@contextmanager
def _database(use_case: str = "") -> Iterator[tuple[Database, str]]:
    """The platform's database, and the use case's name; the use case itself is not loaded."""
    from millrace.db import Database
    from millrace.loader import find_folder
    from millrace.settings import read_settings

    settings = read_settings()
    name = find_folder(use_case, settings).name if use_case else ""
    db = Database.open(settings)
    try:
        yield db, name
    finally:
        db.close()


def _for_people(found: dict[str, Any]) -> dict[str, Any]:
    """Sentences a line each, without the raw evidence that `--json` has."""
    told = {name: value for name, value in found.items() if name != "evidence" and value not in (None, [], "")}
    told |= {name: "\n".join(told[name]) for name in ("for", "against") if name in told}
    return told
