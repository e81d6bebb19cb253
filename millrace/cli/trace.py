"""`millrace trace …`: where a value comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, now

app = typer.Typer(no_args_is_help=True, help="Tell where a value comes from.")


@app.callback()
def _of_what() -> None:
    """Tell where a value comes from."""


@app.command()
def feature(
    use_case: Name,
    name: Annotated[str, typer.Argument(metavar="VIEW:FEATURE", help="The feature view and the feature.")],
    key: Annotated[list[str], typer.Option("--key", metavar="COLUMN=VALUE", help="A join key; once for each.")],
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Trace a feature value to its source batches.

    Its view, its table's build, the raw rows that can have gone into it and the batches that brought them.
    """
    from pipelines.trace import trace_feature
    from pipelines.workspace import open_workspace

    pairs = [one.partition("=") for one in key]
    if not all(column and equals for column, equals, _ in pairs):
        raise typer.BadParameter("write COLUMN=VALUE, such as --key origin=JFK.", param_hint="--key")
    with open_workspace(use_case) as workspace:
        values = {column: value for column, _, value in pairs}
        console.show(trace_feature(workspace, name, values, as_of=now(as_of)), json)
