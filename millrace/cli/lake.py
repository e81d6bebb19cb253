"""`millrace lake …`: what lies in a use case's lake, is it whole, and its upkeep."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from millrace import console
from millrace.cli.options import Json, Name, instant, now

app = typer.Typer(no_args_is_help=True, help="See, check and tidy the versioned tables.")

Table = Annotated[str, typer.Argument(metavar="TABLE", help="A table's name, such as raw/flights.")]
Tables = Annotated[str | None, typer.Argument(metavar="[TABLE]", help="One table; default: all of them.")]


@app.command("list")
def list_tables(use_case: Name, json: Json = False) -> None:
    """Show every table.

    Its version, rows, files, size, what earlier versions take, and the last commit.
    """
    from pipelines.upkeep import tables
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(tables(workspace), json)


@app.command()
def history(
    use_case: Name,
    table: Table,
    limit: Annotated[int, typer.Option(min=1, help="How many commits to show.")] = 20,
    json: Json = False,
) -> None:
    """Show a table's commits, the newest first.

    What each did, its batch and range, whether its version can be read, and the models trained on it.
    """
    from pipelines.upkeep import history as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, table, limit=limit), json)


@app.command()
def show(
    use_case: Name,
    table: Table,
    version: Annotated[int | None, typer.Option(min=0, help="As of this version; default: the newest.")] = None,
    at: Annotated[
        datetime | None, typer.Option("--at", parser=instant, metavar="TIME", help="As the table was at this moment.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 10,
    json: Json = False,
) -> None:
    """Show a table's newest rows.

    As they are, or as they were at a version or a moment.
    """
    from pipelines.upkeep import show as act
    from pipelines.workspace import open_workspace

    if version is not None and at is not None:
        raise typer.BadParameter("name a version or a moment, not both.")
    with open_workspace(use_case) as workspace:
        console.show(act(workspace, table, version=version, at=at, limit=limit), json)


@app.command()
def verify(use_case: Name, table: Tables = None, json: Json = False) -> None:
    """Compare the tables with what was written to them.

    Every file with its digest, every batch with its rows' digest. Exits with 1 when something is wrong.
    """
    from pipelines.upkeep import verify as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        found = act(workspace, table, progress=console.progress(json))
    console.show(found, json)
    if not found["whole"]:
        raise typer.Exit(1)


@app.command()
def compact(use_case: Name, table: Tables = None, json: Json = False) -> None:
    """Put the tables into few files.

    Changes no row; the earlier files stay until a vacuum.
    """
    from pipelines.upkeep import compact as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, table, as_of=now(None), progress=console.progress(json)), json)


@app.command()
def vacuum(
    use_case: Name,
    table: Tables = None,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="DAYS", help="Keep what was replaced this lately.")
    ] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; delete nothing.")] = False,
    json: Json = False,
) -> None:
    """Delete the files of old versions.

    Never those of a version that a registered model was trained on.
    """
    from pipelines.upkeep import vacuum as act
    from pipelines.workspace import open_workspace

    keep, moment = timedelta(days=older_than), now(None)
    with open_workspace(use_case) as workspace:
        progress = console.progress(json)
        done = act(workspace, table, as_of=moment, progress=progress, older_than=keep, dry_run=dry_run)
    console.show(done, json)
