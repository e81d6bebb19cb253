"""The command that fills the lake with the past: `millrace backfill`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import typer

from millrace import console
from millrace.cli.options import Json, Name, instant

app = typer.Typer()


@app.command()
def backfill(
    use_case: Name,
    start: Annotated[
        datetime, typer.Option("--from", parser=instant, metavar="TIME", help="Rows known after this moment.")
    ],
    until: Annotated[datetime, typer.Option("--until", parser=instant, metavar="TIME", help="Up to this moment.")],
    by: Annotated[Literal["day", "week", "month"], typer.Option("--by", help="The length of a partition.")] = "week",
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="NAME", help="Only this source; may be repeated.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also the partitions that are done.")] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="SOURCE", help="Take this source's batches though unlike those before."),
    ] = None,
    json: Json = False,
) -> None:
    """Bring a stretch of the past into the lake, a partition at a time.

    Then build the feature tables and bring their newest values online. What is done is skipped when typed again.
    """
    from pipelines.backfill import backfill as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        done = act(
            workspace,
            start=start,
            until=until,
            by=by,
            only=source or (),
            again=again,
            accept=accept or (),
            progress=console.progress(json),
        )
        console.show(done.as_dict(), json)
