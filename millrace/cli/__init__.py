"""`millrace …`: parse, call, print.

Every command takes a use case's name or folder, prints for people, and with `--json` one JSON value on standard output
for machines; progress and errors go to standard error. Nothing heavy is imported before a command needs it: `--help`
answers at once. This is the only place, beside the schedules, that reads the clock.
"""

from __future__ import annotations

import sys
import warnings

import typer

from millrace import console
from millrace.cli import (
    alerts,
    commands,
    decisions,
    deploy,
    features,
    jobs,
    keys,
    lake,
    push,
    quarantine,
    sources,
    trace,
    training,
)
from millrace.errors import MillraceError

app = typer.Typer(
    help="From a folder of plain Python to a model that is served, watched and kept good.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs 0.13 s of the 0.5 s that help may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(commands.app)
app.add_typer(training.app)
app.add_typer(decisions.app)
app.add_typer(jobs.top)
app.add_typer(jobs.app, name="jobs")
app.add_typer(sources.app)
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(push.app)
app.add_typer(lake.app, name="lake")
app.add_typer(features.app, name="features")
app.add_typer(trace.app, name="trace")
app.add_typer(keys.app, name="keys")
app.add_typer(deploy.app)
app.add_typer(alerts.app, name="alerts")


@app.callback()
def _before_any_command() -> None:
    from millrace.settings import quiet_vendors

    quiet_vendors()


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
