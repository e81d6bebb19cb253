"""`millrace push`: rows of a feature view from a file or the command line, as the server takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, now

app = typer.Typer()


@app.command()
def push(
    use_case: Name,
    view: Annotated[str, typer.Argument(metavar="VIEW", help="The feature view that the rows are of.")],
    rows: Annotated[
        str,
        typer.Argument(
            metavar="ROWS", help="A CSV, Parquet or JSON file; JSON itself, one object or a list; - for standard input."
        ),
    ],
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Write fresh rows of a feature view.

    Into the lake and the online store; the same rows again change nothing.
    """
    from dataclasses import asdict

    from pipelines.data import push as act
    from pipelines.workspace import open_workspace

    given = Path(rows) if Path(rows).suffix in (".csv", ".parquet") else console.read_rows(rows)
    progress = console.progress(json)
    with open_workspace(use_case) as workspace:
        progress.start(f"push to {view}")
        done = act(workspace, view, given, as_of=now(as_of))
        progress.done()
    console.show({"use_case": workspace.use_case.name} | asdict(done), json)
