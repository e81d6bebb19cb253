"""The commands of the loop: ingest, serve, monitor, and what runs them all."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from millrace import console
from millrace.cli.options import AsOf, Json, Name, instant, now

app = typer.Typer()


@app.command()
def demo(
    use_case: Name,
    start: Annotated[datetime, typer.Option("--from", parser=instant, metavar="TIME", help="First week's start.")],
    until: Annotated[datetime, typer.Option("--until", parser=instant, metavar="TIME", help="End of the last week.")],
    short: Annotated[bool, typer.Option("--short", help="The first two weeks only.")] = False,
    json: Json = False,
) -> None:
    """Run the whole loop on the past.

    From raw files to a model that is served, watched and retrained; `make demo` names the flights of spring 2013.
    """
    from pipelines.demo import run_demo

    summary, path = run_demo(use_case, start=start, until=until, short=short, progress=console.progress(json))
    console.show_replay(summary, path, json)


@app.command()
def replay(
    use_case: Name,
    start: Annotated[datetime, typer.Option("--from", parser=instant, metavar="TIME", help="First week's start.")],
    until: Annotated[datetime, typer.Option("--until", parser=instant, metavar="TIME", help="End of the last week.")],
    beside: Annotated[
        str, typer.Option(help="Naive policies to compare with, such as never,monthly,weekly; they train each time.")
    ] = "none",
    json: Json = False,
) -> None:
    """Replay the past, week by week.

    Ingest, score, watch, decide and retrain as of each week's end, beside the first model left alone.
    """
    from pipelines.policies import chosen

    policies = chosen(beside)
    from pipelines.replay import run_replay

    summary, path = run_replay(use_case, start=start, until=until, progress=console.progress(json), beside=policies)
    console.show_replay(summary, path, json)


@app.command()
def ingest(
    use_case: Name,
    as_of: AsOf = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", parser=instant, metavar="TIME", help="Read again from here; default: where it ended."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="SOURCE", help="Take this source's batch though it is unlike those before."),
    ] = None,
    json: Json = False,
) -> None:
    """Bring what became known into the lake.

    Then build the feature tables and bring their newest values online.
    """
    from pipelines.flows import ingest_flow, run_flow

    done = run_flow(ingest_flow, use_case=use_case, as_of=now(as_of), since=since, accept=tuple(accept or ()))
    console.show(done, json)


@app.command()
def materialize(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Bring fresh values to the online store."""
    from pipelines.flows import materialize_flow, run_flow

    console.show(run_flow(materialize_flow, use_case=use_case, as_of=now(as_of)), json)


@app.command()
def serve(
    use_cases: Annotated[list[str], typer.Argument(metavar="USE_CASE…", help="Names or folders of use cases.")],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: the setting.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one; default: the setting.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer, kept alive by one more; default: the setting.")
    ] = None,
) -> None:
    """Answer predictions over HTTP.

    And show the status page, until stopped.
    """
    from millrace.logging import configure_logging
    from millrace.settings import read_settings

    given = {name: value for name, value in (("host", host), ("port", port), ("workers", workers)) if value is not None}
    settings = read_settings(**given)
    configure_logging(settings)
    if settings.workers > 1:
        from serving.supervisor import supervise

        supervise(settings, use_cases)
    else:
        from millrace.loader import load_use_case
        from serving.run import serve as run

        run(settings, *(load_use_case(name, settings) for name in use_cases))


@app.command()
def ship(use_cases: Annotated[list[str], typer.Argument(metavar="USE_CASE…")], json: Json = False) -> None:
    """Move what servers logged into the lake.

    Every finished segment of the prediction log, once; a running server does it by itself.
    """
    from millrace.lake import open_lake
    from millrace.loader import find_folder
    from millrace.prediction_log import log_folder
    from millrace.prediction_log import ship as move
    from millrace.settings import read_settings

    settings = read_settings()
    names = [find_folder(name, settings).name for name in use_cases]
    console.show({name: move(log_folder(settings, name), open_lake(settings, name)) for name in names}, json)


@app.command()
def predict(
    use_case: Name,
    rows: Annotated[
        str, typer.Argument(help="One JSON object or a list of them, a file of it, or - for standard input.")
    ],
    at: Annotated[
        datetime | None, typer.Option("--as-of", parser=instant, metavar="TIME", help="The moment predicted at.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a few rows in this process.

    By entity keys and request inputs, as the server would.
    """
    from pipelines.status import predict as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, console.read_rows(rows), at=now(at)), json)


@app.command()
def monitor(
    use_case: Name,
    as_of: AsOf = None,
    act: Annotated[bool, typer.Option("--act/--no-act", help="Retrain when that is the decision.")] = True,
    json: Json = False,
) -> None:
    """Watch the last window, decide and act.

    Compares it with the reference, joins its labels, and retrains when that is the decision.
    """
    from pipelines.flows import monitor_flow, run_flow

    console.show(run_flow(monitor_flow, use_case=use_case, as_of=now(as_of), act=act), json)


@app.command()
def status(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Show where a use case stands.

    Champion, last ingest, freshness, last window and decision.
    """
    from pipelines.status import status as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, as_of=now(as_of)), json)


@app.command()
def doctor(json: Json = False) -> None:
    """Name what is missing and what to type."""
    from pipelines.doctor import examine

    findings = examine()
    console.show_findings(findings, json)
    if any(not finding.ok for finding in findings):
        raise typer.Exit(1)
