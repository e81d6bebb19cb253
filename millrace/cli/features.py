"""`millrace features …`: are the values online those that models are trained on; a place for Feast's own tools."""

from __future__ import annotations

from typing import Annotated

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, now

app = typer.Typer(no_args_is_help=True, help="See and check the feature views.")


@app.command()
def status(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Show how fresh each online view is.

    Its newest event, the age of that against the TTL, the entities that have a value, and what serving does without.
    """
    from features.freshness import freshness
    from millrace.loader import load_use_case
    from millrace.settings import read_settings

    settings, at = read_settings(), now(as_of)
    views = freshness(load_use_case(use_case, settings), settings, as_of=at)
    console.show({"as_of": at, "views": [view.as_dict() if json else view.as_line() for view in views]}, json)


@app.command()
def parity(
    use_case: Name,
    rows: Annotated[int, typer.Option(min=1, help="How many training rows to ask for.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Ask for training rows online and compare.

    Value by value, as of each row's instant; exit code 1 when one differs.
    """
    from pipelines.models import parity as act
    from pipelines.workspace import open_workspace

    progress = console.progress(json)
    progress.start("Asking again online")
    with open_workspace(use_case) as workspace:
        found = act(workspace, rows=rows, as_of=now(as_of), seed=seed)
    progress.done(str(found))
    console.show(found.as_dict(), json)
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def repo(use_case: Name, json: Json = False) -> None:
    """Write a Feast repository and show its path.

    Feast's own command line, SDK and UI work on it as they are.
    """
    from features.feast_repo import write_repo
    from millrace.loader import find_folder
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        settings = workspace.settings
        path = write_repo(workspace.use_case, find_folder(use_case, settings), settings)
    console.show({"path": str(path), "try": f"feast -c {path} feature-views list"}, json)
