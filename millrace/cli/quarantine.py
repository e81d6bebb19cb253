"""The commands of the quarantine: what broke its schema, why, and its way back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, now

if TYPE_CHECKING:
    from millrace.source import Source
    from pipelines.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Rows that broke their schema: see them, and bring them back.")

SourceNames = Annotated[
    list[str] | None, typer.Option("--source", metavar="SOURCE", help="Only this source; may be repeated.")
]
Batch = Annotated[str, typer.Option("--batch", help="Only this batch: its name, or the digest that ends it.")]


@app.command("list")
def list_(use_case: Name, source: SourceNames = None, json: Json = False) -> None:
    """Show how many rows lie there, and why.

    A line for each source and batch, with the commonest reasons.
    """
    from pipelines.ingest.quarantine import list_held
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        held = list_held(workspace.lake, _sources(workspace, source))
    console.show({"rows": sum(line.rows for line in held), "batches": [asdict(line) for line in held]}, json)


@app.command()
def show(
    use_case: Name,
    source: SourceNames = None,
    batch: Batch = "",
    limit: Annotated[int, typer.Option(min=1, help="Rows of each source to show.")] = 20,
    json: Json = False,
) -> None:
    """Show rows with what is wrong in each column."""
    from pipelines.ingest.quarantine import show_held
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        held = show_held(workspace.lake, _sources(workspace, source), batch=batch, limit=limit)
    console.show({"shown": len(held), "rows": [asdict(row) for row in held]}, json)


@app.command()
def replay(
    use_case: Name, source: SourceNames = None, batch: Batch = "", as_of: AsOf = None, json: Json = False
) -> None:
    """Bring back the rows that pass today's schema.

    They are merged into the raw table, the others stay with today's reasons; the next ingest builds the features.
    """
    from pipelines.data import replay_quarantine
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        done = replay_quarantine(workspace, source or (), batch=batch, as_of=now(as_of))
    totals: dict[str, Any] = {name: sum(getattr(line, name) for line in done) for name in ("rows", "passed", "kept")}
    console.show(totals | {"sources": [asdict(line) for line in done]}, json)


def _sources(workspace: Workspace, names: list[str] | None) -> tuple[Source, ...]:
    from pipelines.data import chosen

    return chosen(workspace, names or ()) or workspace.use_case.sources
