"""`millrace …`: parse, call, print.

Every command takes a use case's name or folder, prints for people, and with `--json` one JSON value on standard output
for machines; progress and errors go to standard error. Nothing heavy is imported before a command needs it: `--help`
answers at once. This is the only place, beside the schedules, that reads the clock.
"""

from __future__ import annotations

import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from millrace import console
from millrace.errors import MillraceError

app = typer.Typer(
    help="From a folder of plain Python to a model that is served, watched and kept good.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs 0.13 s of the 0.5 s that help may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(metavar="USE_CASE", help="A use case's name or folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]


def _instant(text: str) -> datetime:
    """An ISO date or time; without a zone it is UTC."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a date or time; write 2013-04-01 or 2013-04-01T06:00:00Z."
        ) from error
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


AsOf = Annotated[
    datetime | None,
    typer.Option("--as-of", parser=_instant, metavar="TIME", help="Act as at this moment (UTC); default: now."),
]


def _now(as_of: datetime | None) -> datetime:
    return as_of or datetime.now(UTC)


@app.callback()
def _before_any_command() -> None:
    from millrace.settings import quiet_vendors

    quiet_vendors()


@app.command()
def demo(
    short: Annotated[bool, typer.Option("--short", help="Two weeks of replay instead of thirteen.")] = False,
    json: Json = False,
) -> None:
    """Run the whole loop on real flights.

    From raw files to a model that is served, watched and retrained; thirteen weeks of 2013.
    """
    from pipelines.demo import run_demo

    summary, path = run_demo(short=short, progress=console.progress(json))
    console.show_replay(summary, path, json)


@app.command()
def replay(
    use_case: Name,
    start: Annotated[datetime, typer.Option("--from", parser=_instant, metavar="TIME", help="First week's start.")],
    until: Annotated[datetime, typer.Option("--until", parser=_instant, metavar="TIME", help="End of the last week.")],
    json: Json = False,
) -> None:
    """Replay the past, week by week.

    Ingest, score, watch, decide and retrain as of each week's end, beside the first model left alone.
    """
    from pipelines.replay import run_replay

    summary, path = run_replay(use_case, start=start, until=until, progress=console.progress(json))
    console.show_replay(summary, path, json)


@app.command()
def ingest(
    use_case: Name,
    as_of: AsOf = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", parser=_instant, metavar="TIME", help="Read again from here; default: where it ended."),
    ] = None,
    json: Json = False,
) -> None:
    """Bring what became known into the lake.

    Then build the feature tables and bring their newest values online.
    """
    from pipelines.flows import ingest_flow, run_flow

    console.show(run_flow(ingest_flow, use_case=use_case, as_of=_now(as_of), since=since), json)


@app.command()
def materialize(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Bring fresh values to the online store."""
    from pipelines.flows import materialize_flow, run_flow

    console.show(run_flow(materialize_flow, use_case=use_case, as_of=_now(as_of)), json)


@app.command()
def train(
    use_case: Name,
    as_of: AsOf = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    json: Json = False,
) -> None:
    """Train, measure, gate and promote.

    Every candidate is measured on the artefact that would serve; the best that passes its gate serves.
    """
    from pipelines.flows import run_flow, train_flow

    console.show(run_flow(train_flow, use_case=use_case, as_of=_now(as_of), seed=seed), json)


@app.command()
def promote(
    use_case: Name,
    version: Annotated[int, typer.Argument(help="The registered version that shall serve.")],
    override: Annotated[str, typer.Option(help="Why a version that failed its gate shall serve; recorded.")] = "",
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Let a registered version serve.

    One that failed its gate needs a reason, which is recorded.
    """
    from pipelines.models import promote as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, version, as_of=_now(as_of), override=override), json)


@app.command()
def rollback(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Let the champion before this one serve."""
    from pipelines.models import rollback as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, as_of=_now(as_of)), json)


@app.command()
def serve(
    use_case: Name,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: the setting.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one; default: the setting.")] = None,
) -> None:
    """Answer predictions over HTTP.

    And show the status page, until stopped.
    """
    from millrace.loader import load_use_case
    from millrace.logging import configure_logging
    from millrace.settings import read_settings
    from serving.run import serve as run

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = read_settings(**given)
    configure_logging(settings)
    run(settings, load_use_case(use_case, settings))


@app.command()
def predict(
    use_case: Name,
    rows: Annotated[
        str, typer.Argument(help="One JSON object or a list of them, a file of it, or - for standard input.")
    ],
    at: Annotated[
        datetime | None, typer.Option("--as-of", parser=_instant, metavar="TIME", help="The moment predicted at.")
    ] = None,
    json: Json = False,
) -> None:
    """Score a few rows in this process.

    By entity keys and request inputs, as the server would.
    """
    from pipelines.status import predict as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, console.read_rows(rows), at=_now(at)), json)


@app.command()
def score(
    use_case: Name,
    start: Annotated[
        datetime, typer.Option("--from", parser=_instant, metavar="TIME", help="First prediction instant.")
    ],
    until: Annotated[datetime, typer.Option("--until", parser=_instant, metavar="TIME", help="End of the stretch.")],
    output: Annotated[Path | None, typer.Option(help="Also write the scores to this Parquet file.")] = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Score every row of a stretch of time.

    Each by the champion that served at its instant; the predictions are logged.
    """
    from pipelines.flows import run_flow, score_flow

    done = run_flow(score_flow, use_case=use_case, start=start, until=until, as_of=_now(as_of), output=output)
    console.show(done, json)


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

    console.show(run_flow(monitor_flow, use_case=use_case, as_of=_now(as_of), act=act), json)


@app.command()
def status(use_case: Name, as_of: AsOf = None, json: Json = False) -> None:
    """Show where a use case stands.

    Champion, last ingest, freshness, last window and decision.
    """
    from pipelines.status import status as act
    from pipelines.workspace import open_workspace

    with open_workspace(use_case) as workspace:
        console.show(act(workspace, as_of=_now(as_of)), json)


@app.command()
def doctor(json: Json = False) -> None:
    """Name what is missing and what to type."""
    from pipelines.doctor import examine

    findings = examine()
    console.show_findings(findings, json)
    if any(not finding.ok for finding in findings):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command, turns an error of ours into one paragraph and its exit code."""
    if not sys.warnoptions:  # vendors' deprecations are ours to read in the tests, not a user's
        warnings.simplefilter("ignore")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments)
    except MillraceError as error:
        console.show_error(error, "--json" in arguments)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)  # noqa: T201  # the command line's own output
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
