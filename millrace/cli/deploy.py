"""`millrace deploy` and `schedule`: work that starts by itself, on a Prefect server or in this process."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, now, span

app = typer.Typer()

UseCases = Annotated[list[str], typer.Argument(metavar="USE_CASE…", help="Names or folders of use cases.")]


@app.command()
def deploy(
    use_cases: UseCases,
    remove: Annotated[bool, typer.Option("--remove", help="Take away what an earlier deploy made.")] = False,
    json: Json = False,
) -> None:
    """Put schedules and automations on the Prefect server.

    Of PREFECT_API_URL: each line of a use case's schedule, and the retrain that a monitoring pass asks for. Again
    changes nothing.
    """
    from pipelines import deploy as deploying

    made = deploying.remove(use_cases) if remove else deploying.deploy(use_cases)
    console.show({"objects": [one.as_dict() for one in made]}, json)


@app.command()
def schedule(
    use_cases: UseCases,
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, and end.")] = False,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="How often to look what is due.")] = "30s",
    impatient: Annotated[bool, typer.Option("--impatient", help="Try again at once what has just failed.")] = False,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Do the scheduled work whenever it is due, until stopped.

    In this process, where no Prefect server is; what was missed while it did not run is caught up once. With --once,
    exit code 1 when some of it fails.
    """
    from millrace.loader import load_use_case
    from millrace.logging import configure_logging
    from millrace.settings import read_settings
    from pipelines.scheduled import run_due

    pause, settings = span(every).total_seconds(), read_settings()
    configure_logging(settings)
    for name in use_cases:
        load_use_case(name, settings)  # a mistake in it shall be told before anything starts
    while True:
        lines = [line for name in use_cases for line in run_due(name, now(as_of), patient=not impatient)]
        if once or any(line["did"] != "nothing" for line in lines):
            console.show({"work": lines}, json)
        if once:
            raise typer.Exit(any(line["did"] == "failed" for line in lines))
        time.sleep(max(pause, 1.0))
